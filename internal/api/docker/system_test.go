package docker

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

func TestEvents(t *testing.T) {
	list := []events.Message{
		{Type: events.ContainerEventType, Action: events.ActionStart, Actor: events.Actor{ID: "c1", Attributes: map[string]string{"image": "debian"}}, Time: 5},
		{Type: events.NetworkEventType, Action: events.ActionCreate, Actor: events.Actor{ID: "n1"}},
	}
	for _, version := range []string{"1.41", "1.51", "1.52", MaxAPIVersion} {
		f := &fake{events: list}
		res := mobyClient(t, f, version).Events(within(t), client.EventsListOptions{Filters: client.Filters{}.Add("type", "container")})
		var got []string
		for range list {
			select {
			case m := <-res.Messages:
				got = append(got, string(m.Action)+" "+m.Actor.ID)
			case err := <-res.Err:
				t.Fatalf("%s: %v", version, err)
			}
		}
		if fmt.Sprint(got) != "[start c1 create n1]" {
			t.Errorf("%s: %v", version, got)
		}
		if !f.query.Filters["type"]["container"] || f.query.Since.IsZero() || !f.query.Until.IsZero() {
			t.Errorf("%s: query %+v", version, f.query)
		}
	}
}

func TestEventForms(t *testing.T) {
	one := []events.Message{{Type: events.ContainerEventType, Action: "die", Actor: events.Actor{ID: "c1", Attributes: map[string]string{"image": "i"}}}}
	for _, c := range []struct{ version, accept, media, body string }{
		{"1.51", "application/jsonl", "application/json", `{"status":"die","id":"c1","from":"i","Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"image":"i"}}}`},
		{"1.52", "", "application/json", `{"Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"image":"i"}}}`},
		{"1.52", "application/x-ndjson", "application/x-ndjson", `{"Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"image":"i"}}}`},
		{"1.52", "application/json-seq", "application/json-seq", "\x1e" + `{"Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"image":"i"}}}`},
	} {
		f := &fake{events: one}
		r := httptest.NewRequest("GET", "/v"+c.version+"/events?since=1&until=2", http.NoBody)
		r.Header.Set("Accept", c.accept)
		w := httptest.NewRecorder()
		New(f, "9.9").ServeHTTP(w, r)
		if ct := w.Header().Get("Content-Type"); ct != c.media || w.Body.String() != c.body+"\n" {
			t.Errorf("%+v: %s %q", c, ct, w.Body)
		}
		if f.query.Since.Unix() != 1 || f.query.Until.Unix() != 2 {
			t.Errorf("query %+v", f.query)
		}
	}
}
