package storagetest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// runner makes a call, and notes it with its answer.
type runner interface {
	run(client int, in historyCall, call func() string)
}

// unanswered is the answer of a call that a kill has cut off: it was done or not.
const unanswered = "unanswered"

// step is the step of a model that knows for each call the answer and what is
// after it.
func step(next func(state any, in historyCall) (want string, after any)) func(state, input, output any) []any {
	return func(state, input, output any) []any {
		want, after := next(state, input.(historyCall))
		switch output.(string) {
		case want:
			return []any{after}
		case unanswered:
			return []any{state, after}
		}
		return nil
	}
}

// SpokenHistory makes calls to a store as those of Histories are, of a subject
// whose sessions are bounded, and says each before it begins and after its end, in
// lines for SpokenHistories. say writes a line at once; it is called side by side.
func SpokenHistory(st storage.Store, seed uint64, calls int, say func(line string)) error {
	if err := st.PutInstance(context.Background(), &storage.Instance{ID: storage.InstanceID{1}, Node: "node-1"}); err != nil {
		return err
	}
	lineCalls(historyStore{st, context.Background()}, speaker(say), seed, calls)
	return nil
}

type speaker func(line string)

func (say speaker) run(client int, in historyCall, call func() string) {
	say(fmt.Sprintf("call %d %s %d %d %d %t", client, in.what, in.token, in.session, in.renews, in.closeOldest))
	say(fmt.Sprintf("done %d %s", client, call()))
}

// SpokenHistories proves that there is one order of all that processes have said,
// one after the other on one store, each killed behind its last line. A call that
// was not answered was done before its process ended, or never. It returns how
// many there were of both kinds.
func SpokenHistories(t *testing.T, processes [][]string) (answered, cutOff int) {
	t.Helper()
	var r recorder
	at := int64(0) // lines are in the order in which they were said
	for _, lines := range processes {
		open := map[int]*porcupine.Operation{}
		for _, line := range lines {
			at++
			var client int
			what, rest, _ := strings.Cut(line, " ")
			number, rest, _ := strings.Cut(rest, " ")
			if _, err := fmt.Sscan(number, &client); err != nil {
				t.Fatalf("line %q: %v", line, err)
			}
			switch op := open[client]; {
			case what == "call" && op == nil:
				var in historyCall
				if _, err := fmt.Sscan(rest, &in.what, &in.token, &in.session, &in.renews, &in.closeOldest); err != nil {
					t.Fatalf("line %q: %v", line, err)
				}
				open[client] = &porcupine.Operation{ClientId: client, Input: in, Call: at}
			case what == "done" && op != nil:
				op.Output, op.Return = rest, at
				r.ops = append(r.ops, *op)
				delete(open, client)
				answered++
			default:
				t.Fatalf("line %q comes out of turn", line)
			}
		}
		at++
		for _, op := range open {
			op.Output, op.Return = unanswered, at
			r.ops = append(r.ops, *op)
			cutOff++
		}
		r.ops = append(r.ops, porcupine.Operation{Input: historyCall{what: "restart"}, Call: at + 1, Return: at + 2, Output: ""})
		at += 2
	}
	r.check(t, lineModel.ToModel())
	return answered, cutOff
}
