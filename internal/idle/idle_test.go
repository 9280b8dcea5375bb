package idle

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestFreesOnceAfterEveryBusyTime runs on a clock of its own: a busy machine would make pauses within a busy time.
func TestFreesOnceAfterEveryBusyTime(t *testing.T) { synctest.Test(t, testFreesOnce) }

func testFreesOnce(t *testing.T) {
	freed := make(chan struct{}, 10)
	trimmer := New(10 * time.Millisecond)
	trimmer.free = func() { freed <- struct{}{} }
	for range 2 {
		for range 5 {
			trimmer.Touch()
		}
		<-freed
	}
	select {
	case <-freed:
		t.Error("memory was freed without a busy time before")
	case <-time.After(50 * time.Millisecond):
	}
}
