package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
)

// QueryOOM is the query for containers that run out of memory. The answer is {}, then a line of JSON (OOM) for each container
// that has, and for each that does from then on, until the client goes.
const QueryOOM = "oom"

// OOM tells how often a container has run out of memory since its process began.
type OOM struct {
	ID    string `json:"id"`
	Pid   int    `json:"pid"` // of the container's first process
	Count int    `json:"count"`
}

// WatchOOM calls each for every container that has run out of memory, and whenever one does, until the connection or ctx
// ends, which is an error.
func (s *Shim) WatchOOM(ctx context.Context, each func(OOM)) error {
	conn, _, err := s.ask(ctx, AttachRequest{Query: QueryOOM})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if stop() {
			_ = conn.Close()
		}
	}()
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadSlice('\n')
		var o OOM
		if err == nil {
			err = json.Unmarshal(line, &o)
		}
		if err != nil {
			return fmt.Errorf("watch containers for want of memory: %w", err)
		}
		each(o)
	}
}
