package engine

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/moby/moby/api/types/container"

	"gantry/internal/logs"
)

// The log of a container that says nothing about its size: as much as docker's "local" driver keeps.
const (
	defaultLogSize  = "20m"
	defaultLogFiles = "5"
)

// unlimited is the max-size of a log without a bound.
const unlimited = "-1"

// completeLogConfig fills in what a request leaves out, so that the container's description shows what holds for it. As with
// docker, a container that sets the size alone has one file.
func completeLogConfig(l *container.LogConfig, defaults map[string]string) {
	if l.Type != "json-file" {
		return
	}
	all := map[string]string{}
	if defaults["max-size"] == "" && l.Config["max-size"] == "" {
		all["max-size"], all["max-file"] = defaultLogSize, defaultLogFiles
	}
	maps.Copy(all, defaults)
	maps.Copy(all, l.Config)
	l.Config = all
}

// CheckLogOptions checks options that are to hold for every container that does not set them.
func CheckLogOptions(options map[string]string) error {
	l := container.LogConfig{Type: "json-file", Config: options}
	_, err := logOptions(record{Config: Config{Config: &container.Config{}, HostConfig: &container.HostConfig{LogConfig: l}}}, "")
	return err
}

// logOptions reads docker's --log-driver and --log-opt of a container whose log is to be at path.
func logOptions(rec record, path string) (logs.Options, error) {
	l := rec.Config.HostConfig.LogConfig
	o := logs.Options{Path: path, MaxFiles: 1}
	if l.Type != "json-file" && l.Type != "none" {
		return o, refuse("logging driver %q is not supported: json-file and none are", l.Type)
	}
	for key, value := range l.Config {
		var err error
		switch key {
		case "max-size":
			if value == unlimited {
				continue
			}
			o.MaxSize, err = parseSize(value)
			if err != nil || o.MaxSize <= 0 {
				return o, refuse("log option max-size=%s: want a size such as 10m, or -1 for a log without a bound", value)
			}
		case "max-file":
			o.MaxFiles, err = strconv.Atoi(value)
			if err != nil || o.MaxFiles < 1 {
				return o, refuse("log option max-file=%s: want a number of at least 1", value)
			}
		case "mode":
			if value != "blocking" {
				return o, refuse("log option mode=%s is not supported: output blocks, so that none is lost", value)
			}
		case "max-buffer-size":
			return o, refuse("log option max-buffer-size is only for mode=non-blocking, which is not supported")
		case "compress":
			if on, err := strconv.ParseBool(value); err != nil || on {
				return o, refuse("log option compress=%s is not supported: rotated files stay plain", value)
			}
		case "labels", "labels-regex", "env", "env-regex", "tag":
		default:
			return o, refuse("unknown log opt %q for json-file log driver", key)
		}
	}
	var err error
	o.Attrs, err = logAttrs(rec)
	return o, err
}

// logAttrs are what every entry of the log carries: the labels and variables that are named, and the tag.
func logAttrs(rec record) (map[string]string, error) {
	options, attrs := rec.Config.HostConfig.LogConfig.Config, map[string]string{}
	variables := map[string]string{}
	for _, entry := range rec.Config.Env {
		if name, value, found := strings.Cut(entry, "="); found {
			variables[name] = value
		}
	}
	for _, from := range []struct {
		key    string
		values map[string]string
	}{{"labels", rec.Config.Labels}, {"env", variables}} {
		named := strings.Split(options[from.key], ",")
		var pattern *regexp.Regexp
		if text := options[from.key+"-regex"]; text != "" {
			var err error
			if pattern, err = regexp.Compile(text); err != nil {
				return nil, refuse("log option %s-regex=%s: %v", from.key, text, err)
			}
		}
		for name, value := range from.values {
			if slices.Contains(named, name) || pattern != nil && pattern.MatchString(name) {
				attrs[name] = value
			}
		}
	}
	if text := options["tag"]; text != "" {
		tag, err := logTag(rec, text)
		if err != nil {
			return nil, refuse("log option tag=%s: %v", text, err)
		}
		attrs["tag"] = tag
	}
	return attrs, nil
}

// logTag fills a template with what docker offers for it.
func logTag(rec record, text string) (string, error) {
	parsed, err := template.New("tag").Option("missingkey=error").Parse(text)
	if err != nil {
		return "", err
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name of this machine: %w", err)
	}
	_, image, _ := strings.Cut(rec.Image.ID.String(), ":")
	var out strings.Builder
	err = parsed.Execute(&out, map[string]string{
		"ID": rec.ID[:min(12, len(rec.ID))], "FullID": rec.ID, "Name": rec.Name, "ImageID": image[:min(12, len(image))], "ImageFullID": rec.Image.ID.String(),
		"ImageName": rec.Config.Image, "DaemonName": "gantry", "Hostname": host,
	})
	return out.String(), err
}
