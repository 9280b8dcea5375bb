package idle

import (
	"testing"
	"time"
)

func TestFreesOnceAfterEveryBusyTime(t *testing.T) {
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
