package image

import (
	"io"
	"sync"
	"time"
)

// meterInterval is how often a meter reports at most: often enough for a bar to move.
const meterInterval = 100 * time.Millisecond

// meter reports how much of a layer has been read, and when it is all.
type meter struct {
	r      io.Reader
	id     string
	status string
	total  int64
	report func(Progress)

	mu   sync.Mutex // guards what follows: readers may change goroutines
	n    int64
	last time.Time
	told bool // that it is all
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n += int64(n)
	now, all := time.Now(), err == io.EOF && !m.told
	if all || err == nil && now.Sub(m.last) >= meterInterval {
		m.last, m.told = now, all
		m.report(Progress{ID: m.id, Status: m.status, Current: m.n, Total: m.total})
	}
	return n, err
}
