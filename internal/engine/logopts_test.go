package engine

import (
	"maps"
	"testing"

	"github.com/moby/moby/api/types/container"
)

func TestLogsAreBounded(t *testing.T) {
	type options = map[string]string
	for _, c := range []struct {
		name                  string
		asked, defaults, want options
		driver                string
		maxSize               int64
		maxFiles              int
	}{
		{name: "nothing said", want: options{"max-size": "20m", "max-file": "5"}, maxSize: 20 << 20, maxFiles: 5},
		{name: "files alone", asked: options{"max-file": "2"}, want: options{"max-size": "20m", "max-file": "2"}, maxSize: 20 << 20, maxFiles: 2},
		{name: "size alone", asked: options{"max-size": "1m"}, want: options{"max-size": "1m"}, maxSize: 1 << 20, maxFiles: 1},
		{name: "without a bound", asked: options{"max-size": "-1"}, want: options{"max-size": "-1"}, maxFiles: 1},
		{name: "another option", asked: options{"labels": "x"}, want: options{"labels": "x", "max-size": "20m", "max-file": "5"}, maxSize: 20 << 20, maxFiles: 5},
		{name: "the engine's", defaults: options{"max-size": "3m", "labels": "y"}, want: options{"max-size": "3m", "labels": "y"}, maxSize: 3 << 20, maxFiles: 1},
		{name: "the engine's, unbounded", defaults: options{"max-size": "-1"}, want: options{"max-size": "-1"}, maxFiles: 1},
		{name: "before the engine's", asked: options{"max-size": "1m"}, defaults: options{"max-size": "3m", "max-file": "4"}, want: options{"max-size": "1m", "max-file": "4"}, maxSize: 1 << 20, maxFiles: 4},
		{name: "no log", driver: "none", maxFiles: 1},
	} {
		l := container.LogConfig{Type: "json-file", Config: c.asked}
		if c.driver != "" {
			l.Type = c.driver
		}
		completeLogConfig(&l, c.defaults)
		if !maps.Equal(l.Config, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, l, c.want)
		}
		o, err := logOptions(record{Config: Config{Config: &container.Config{}, HostConfig: &container.HostConfig{LogConfig: l}}}, "/log")
		if err != nil || o.MaxSize != c.maxSize || o.MaxFiles != c.maxFiles {
			t.Errorf("%s: %+v, %v", c.name, o, err)
		}
	}
	for name, bad := range map[string]options{"a wrong size": {"max-size": "0"}, "a negative size": {"max-size": "-2"}, "an unknown option": {"wings": "2"}} {
		if err := CheckLogOptions(bad); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
