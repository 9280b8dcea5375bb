package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
)

func values(t *testing.T, s *store, bucket string) map[string]int {
	t.Helper()
	got := map[string]int{}
	err := s.Each(bucket, func(key string, value []byte) error {
		var n int
		err := json.Unmarshal(value, &n)
		got[key] = n
		return err
	}, func(key string, err error) { t.Errorf("%s: %v", key, err) })
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestStoreKeepsWhatItAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := openStore(path, "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if err := s.Put(t.Context(), "a", fmt.Sprint(i), i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 50 {
		if err := s.Delete(t.Context(), "a", fmt.Sprint(i)); err != nil {
			t.Error(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a", "late", 1); !errors.Is(err, errStoreClosed) {
		t.Errorf("put after close: %v", err)
	}

	s, err = openStore(path, "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	got := values(t, s, "a")
	if len(got) != 50 || got["99"] != 99 {
		t.Errorf("after reopening: %d values, 99 is %d", len(got), got["99"])
	}
	if err := s.Put(t.Context(), "nowhere", "x", 1); err == nil {
		t.Error("put into a missing bucket succeeded")
	}
	if err := s.Put(t.Context(), "b", "x", 1); err != nil {
		t.Errorf("put after a failed one: %v", err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}

func TestStoreSkipsWhatDoesNotDecode(t *testing.T) {
	s, err := openStore(filepath.Join(t.TempDir(), "state.db"), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for key, value := range map[string]any{"bad": "text", "good": 1} {
		if err := s.Put(t.Context(), "a", key, value); err != nil {
			t.Fatal(err)
		}
	}
	var bad, good []string
	err = s.Each("a", func(key string, value []byte) error {
		var n int
		if err := json.Unmarshal(value, &n); err != nil {
			return err
		}
		good = append(good, key)
		return nil
	}, func(key string, _ error) { bad = append(bad, key) })
	if err != nil || len(bad) != 1 || bad[0] != "bad" || len(good) != 1 {
		t.Errorf("good %v, bad %v, error %v", good, bad, err)
	}
}
