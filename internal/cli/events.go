package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/spf13/cobra"

	"gantry/internal/client"
)

func newEvents(a *app) *cobra.Command {
	var o client.EventsOptions
	var filters []string
	var format string
	cmd := &cobra.Command{
		Use: "events [OPTIONS]", Short: "Get real time events from the server", Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Filters, err = parseFilters(filters); err != nil {
				return err
			}
			return a.events(cmd.Context(), o, format)
		},
	}
	cmd.Flags().StringVar(&o.Since, "since", "", "Show all events created since timestamp")
	cmd.Flags().StringVar(&o.Until, "until", "", "Stream events until this timestamp")
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "Filter output based on conditions provided")
	cmd.Flags().StringVar(&format, "format", "", "Format output: 'json' or a Go template")
	return cmd
}

func (a *app) events(ctx context.Context, o client.EventsOptions, format string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var t *template.Template
	if format != "" {
		var err error
		if format == "json" {
			format = "{{json .}}"
		}
		if t, err = parseFormat(format); err != nil {
			return err
		}
	}
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	stream, err := api.Events(ctx, o)
	if err != nil {
		return err
	}
	for event, err := range stream {
		if err != nil {
			return err
		}
		if err := a.showEvent(t, event); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) showEvent(t *template.Template, e events.Message) error {
	if t != nil {
		return executeLine(a.screen(), t, e)
	}
	when := time.Unix(e.Time, 0)
	if e.TimeNano != 0 {
		when = time.Unix(0, e.TimeNano)
	}
	var attributes []string
	for _, name := range slices.Sorted(maps.Keys(e.Actor.Attributes)) {
		attributes = append(attributes, name+"="+e.Actor.Attributes[name])
	}
	line := fmt.Sprintf("%s %s %s %s", when.Format("2006-01-02T15:04:05.000000000Z07:00"), e.Type, e.Action, e.Actor.ID)
	if attributes != nil {
		line += " (" + strings.Join(attributes, ", ") + ")"
	}
	a.println(line)
	return nil
}
