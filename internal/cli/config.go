package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	credentials "github.com/docker/docker-credential-helpers/client"
	dockercreds "github.com/docker/docker-credential-helpers/credentials"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
)

// dockerHub is the name under which docker's configuration keeps the default registry.
const dockerHub = "https://index.docker.io/v1/"

// configFile is the part of docker's config.json that is used here.
type configFile struct {
	Auths       map[string]authEntry `json:"auths"`
	CredHelpers map[string]string    `json:"credHelpers"`
	CredsStore  string               `json:"credsStore"`
	DetachKeys  string               `json:"detachKeys"`
}

type authEntry struct {
	Auth          string `json:"auth"` // base64 of user:password
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// loadConfig reads $DOCKER_CONFIG/config.json or ~/.docker/config.json; a missing file is an empty one.
func loadConfig() (configFile, error) {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return configFile{}, nil
		}
		dir = filepath.Join(home, ".docker")
	}
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return configFile{}, nil
	}
	if err != nil {
		return configFile{}, fmt.Errorf("read docker's configuration: %w", err)
	}
	var c configFile
	if err := json.Unmarshal(data, &c); err != nil {
		return configFile{}, fmt.Errorf("read docker's configuration %s: %w", path, err)
	}
	return c, nil
}

// detachKeys is the flag's value, else (for a terminal) the configuration's.
func (a *app) detachKeys(flag string, tty bool) string {
	if flag != "" || !tty {
		return flag
	}
	c, err := loadConfig()
	if err != nil {
		a.warnf("WARNING: %v\n", err)
	}
	return c.DetachKeys
}

// registryAuth is the X-Registry-Auth header for pulling image, "" for an anonymous pull.
func registryAuth(image string) (string, error) {
	name, err := parseImageName(image)
	if err != nil {
		return "", err
	}
	server := name.domain
	if server == "docker.io" {
		server = dockerHub
	}
	c, err := loadConfig()
	if err != nil {
		return "", err
	}
	auth, err := c.credentials(server)
	if err != nil || auth == (registry.AuthConfig{}) {
		return "", err
	}
	auth.ServerAddress = server
	return authconfig.Encode(auth)
}

// credentials asks the helper that is configured for server, else looks into the file.
func (c configFile) credentials(server string) (registry.AuthConfig, error) {
	if helper := c.helper(server); helper != "" {
		return helperCredentials(helper, server)
	}
	for _, name := range []string{server, "https://" + server, "http://" + server, "https://" + server + "/v1/", "https://" + server + "/v2/"} {
		if entry, ok := c.Auths[name]; ok {
			return entry.decode(name)
		}
	}
	return registry.AuthConfig{}, nil
}

func (c configFile) helper(server string) string {
	if helper, ok := c.CredHelpers[server]; ok {
		return helper
	}
	return c.CredsStore
}

// tokenUser is the user name by which helpers mark an identity token.
const tokenUser = "<token>"

func helperCredentials(helper, server string) (registry.AuthConfig, error) {
	found, err := credentials.Get(credentials.NewShellProgramFunc("docker-credential-"+helper), server)
	if dockercreds.IsErrCredentialsNotFound(err) {
		return registry.AuthConfig{}, nil
	}
	if err != nil {
		return registry.AuthConfig{}, fmt.Errorf("ask credential helper docker-credential-%s about %s: %w", helper, server, err)
	}
	if found.Username == tokenUser {
		return registry.AuthConfig{IdentityToken: found.Secret}, nil
	}
	return registry.AuthConfig{Username: found.Username, Password: found.Secret}, nil
}
