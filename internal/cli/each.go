package cli

import (
	"context"
	"errors"
	"sync"

	"gantry/internal/client"
)

// parallel bounds how many objects a command works on at once.
const parallel = 32

// each calls do for every name, several at a time, and prints in order the names that succeeded. The error joins all failures.
func (a *app) each(ctx context.Context, names []string, do func(ctx context.Context, api *client.Client, name string) error) error {
	return a.eachQuiet(ctx, names, func(ctx context.Context, api *client.Client, name string) (string, error) {
		return name + "\n", do(ctx, api, name)
	})
}

// eachQuiet is each for a do that returns what is to be printed on success.
func (a *app) eachQuiet(ctx context.Context, names []string, do func(context.Context, *client.Client, string) (string, error)) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	type outcome struct {
		text string
		err  error
	}
	outcomes := make([]outcome, len(names))
	slots := make(chan struct{}, parallel)
	var working sync.WaitGroup
	for i, name := range names {
		slots <- struct{}{}
		working.Go(func() {
			defer func() { <-slots }()
			outcomes[i].text, outcomes[i].err = do(ctx, api, name)
		})
	}
	working.Wait()
	var failures []error
	for _, o := range outcomes {
		if o.err != nil {
			failures = append(failures, o.err)
			continue
		}
		a.printf("%s", o.text)
	}
	return errors.Join(failures...)
}
