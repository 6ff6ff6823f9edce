package ledger

// tally counts live sessions by key. A key has a place, a small number, as long
// as its count is not zero, so that a session can name its keys in few bytes.
// Places whose count falls to zero are given up only by settle: until then the
// group may still be undone.
type tally[K comparable] struct {
	at   map[K]uint32
	all  []counter[K]
	free []uint32
	zero []uint32
}

type counter[K comparable] struct {
	key K
	n   uint32
	pin bool // keeps its place at zero
}

func newTally[K comparable]() tally[K] {
	return tally[K]{at: make(map[K]uint32)}
}

// place finds or makes k's place, without counting. own gives the form of the
// key to keep: callers' strings may be parts of larger ones.
func (t *tally[K]) place(k K, own func(K) K) uint32 {
	if i, ok := t.at[k]; ok {
		return i
	}
	k = own(k)
	var i uint32
	if n := len(t.free); n > 0 {
		i, t.free = t.free[n-1], t.free[:n-1]
		t.all[i] = counter[K]{key: k}
	} else {
		i = uint32(len(t.all))
		t.all = append(t.all, counter[K]{key: k})
	}
	t.at[k] = i
	t.zero = append(t.zero, i)
	return i
}

func (t *tally[K]) add1(i uint32) { t.all[i].n++ }

func (t *tally[K]) drop1(i uint32) {
	if t.all[i].n--; t.all[i].n == 0 {
		t.zero = append(t.zero, i)
	}
}

func (t *tally[K]) setPin(i uint32, pin bool) {
	t.all[i].pin = pin
	t.zero = append(t.zero, i)
}

func (t *tally[K]) settle() {
	for _, i := range t.zero {
		c := &t.all[i]
		if c.n > 0 || c.pin {
			continue
		}
		if j, ok := t.at[c.key]; ok && j == i {
			delete(t.at, c.key)
			t.free = append(t.free, i)
			*c = counter[K]{}
		}
	}
	t.zero = t.zero[:0]
}
