package cli

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/moby/moby/api/types/registry"
)

// decode turns an entry of auths into what the API wants; name is the registry, for the error.
func (e authEntry) decode(name string) (registry.AuthConfig, error) {
	auth := registry.AuthConfig{
		Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken,
	}
	if e.Auth == "" {
		return auth, nil
	}
	plain, err := base64.StdEncoding.DecodeString(e.Auth)
	user, password, ok := strings.Cut(string(plain), ":")
	if err != nil || !ok || user == "" {
		return registry.AuthConfig{}, fmt.Errorf("docker's configuration: the auth entry of %s is not base64 of user:password", name)
	}
	auth.Username, auth.Password = user, strings.TrimRight(password, "\x00")
	return auth, nil
}
