package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// store keeps one JSON value a key in buckets of a bbolt file. Writers that arrive while a commit is under way share
// the next one (group commit), so that a hundred creates wait for a few fsyncs, not for a hundred.
type store struct {
	db *bbolt.DB

	mu      sync.Mutex // guards pending and closed
	pending []*write
	closed  bool
	wake    chan struct{} // capacity 1: there is something pending, or the store is closed
	done    chan struct{} // closed when the committing goroutine has ended
}

type write struct {
	bucket, key string
	value       []byte // nil deletes
	result      chan error
}

var errStoreClosed = errors.New("the state database is closed")

// openStore opens or creates the file and the buckets. Another engine that has it open is waited for a second.
func openStore(path string, buckets ...string) (*store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("open state database %s: %w (is another gantryd using this root?)", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, b := range buckets {
			if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
				return fmt.Errorf("bucket %s: %w", b, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare state database %s: %w", path, err), db.Close())
	}
	s := &store{db: db, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.commitLoop()
	return s, nil
}

// Close commits what is pending and closes the file.
func (s *store) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if again {
		return nil
	}
	s.signal()
	<-s.done
	return s.db.Close()
}

// Put stores v under key and returns when it is on disk, or when ctx ends (it may be stored all the same).
func (s *store) Put(ctx context.Context, bucket, key string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("store %s %s: %w", bucket, key, err)
	}
	return s.enqueue(ctx, bucket, key, value)
}

// Delete removes a key; a missing one is no error.
func (s *store) Delete(ctx context.Context, bucket, key string) error {
	return s.enqueue(ctx, bucket, key, nil)
}

// Each decodes every value of a bucket in key order. A value that does not decode is passed to bad and skipped.
func (s *store) Each(bucket string, decode func(key string, value []byte) error, bad func(key string, err error)) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucket)).ForEach(func(k, v []byte) error {
			if err := decode(string(k), v); err != nil {
				bad(string(k), err)
			}
			return nil
		})
	})
}

func (s *store) enqueue(ctx context.Context, bucket, key string, value []byte) error {
	w, err := s.begin(bucket, key, value)
	if err != nil {
		return err
	}
	return w.wait(ctx)
}

// begin puts a change into the next commit. It does not wait.
func (s *store) begin(bucket, key string, value []byte) (*write, error) {
	w := &write{bucket: bucket, key: key, value: value, result: make(chan error, 1)}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, errStoreClosed
	}
	s.pending = append(s.pending, w)
	s.mu.Unlock()
	s.signal()
	return w, nil
}

// wait returns when the change is on disk.
func (w *write) wait(ctx context.Context) error {
	select {
	case err := <-w.result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("store %s %s: %w", w.bucket, w.key, ctx.Err())
	}
}

func (s *store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// commitLoop is the only writer. It ends when the store is closed and nothing is pending.
func (s *store) commitLoop() {
	defer close(s.done)
	for range s.wake {
		s.mu.Lock()
		batch, closed := s.pending, s.closed
		s.pending = nil
		s.mu.Unlock()
		if len(batch) > 0 {
			err := s.commit(batch)
			for _, w := range batch {
				w.result <- err
			}
		}
		if closed {
			return
		}
	}
}

func (s *store) commit(batch []*write) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for _, w := range batch {
			b := tx.Bucket([]byte(w.bucket))
			if b == nil {
				return fmt.Errorf("no bucket %s", w.bucket)
			}
			var err error
			if w.value == nil {
				err = b.Delete([]byte(w.key))
			} else {
				err = b.Put([]byte(w.key), w.value)
			}
			if err != nil {
				return fmt.Errorf("%s %s: %w", w.bucket, w.key, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("commit %d changes to %s: %w", len(batch), s.db.Path(), err)
	}
	return nil
}
