package page

import (
	"reflect"
	"testing"
)

func TestUnsafeCommandsAreLeftOut(t *testing.T) {
	got := commandViews([]Command{
		{"one", []string{"a"}},
		{"two", []string{"a", "\n"}},
		{"three", []string{"b"}},
	})
	if want := []commandView{{"one", "a"}, {"three", "b"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
