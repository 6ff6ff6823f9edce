package main

import "time"

// snapshot is what all of a fleet holds and has used.
type snapshot struct {
	nodes, visitors, authority memory
	slab, buffers, taken       int64
	nodesCPU, authorityCPU     time.Duration
}

func (m *memory) add(o memory) {
	m.Heap, m.Private, m.Mapped = m.Heap+o.Heap, m.Private+o.Private, m.Mapped+o.Mapped
}

func (f *fleet) look() (s snapshot, err error) {
	of := func(into *memory, all []*child) error {
		for _, c := range all {
			a, err := c.ask(order{Do: "memory"})
			if err != nil {
				return err
			}
			into.add(a.Memory)
		}
		return nil
	}
	// CPU time first: to look at memory collects garbage.
	for _, n := range f.nodes {
		a, err := n.usage()
		if err != nil {
			return s, err
		}
		s.nodesCPU += a.User + a.System
	}
	a, err := f.authority.usage()
	if err != nil {
		return s, err
	}
	s.authorityCPU = a.User + a.System
	for _, look := range []func() error{
		func() error { return of(&s.nodes, f.nodes) },
		func() error { return of(&s.visitors, f.visitors) },
		func() error { return of(&s.authority, []*child{f.authority}) },
		func() (err error) { s.slab, err = kernelMemory("Slab"); return err },
		func() (err error) { s.buffers, err = socketBuffers(); return err },
		func() (err error) { s.taken, err = memoryTaken(); return err },
	} {
		if err := look(); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (f *fleet) memoryTable(before, after snapshot) {
	n := float64(f.lab.sockets)
	t := f.lab.report.table("million memory", "after a collection of garbage in each process, and before there was a socket; each is the difference, of one socket",
		"before MB", "with all MB", "bytes each")
	row := func(name string, before, after int64) float64 {
		each := float64(after-before) / n
		t.row(name, float64(before)/1e6, float64(after)/1e6, each)
		return each
	}
	row("nodes, live objects", before.nodes.Heap, after.nodes.Heap)
	private := row("nodes, private", before.nodes.Private, after.nodes.Private)
	row("nodes, resident", before.nodes.Private+before.nodes.Mapped, after.nodes.Private+after.nodes.Mapped)
	row("authority, live objects", before.authority.Heap, after.authority.Heap)
	row("authority, private", before.authority.Private, after.authority.Private)
	row("kernel, slabs, for both ends", before.slab, after.slab)
	row("kernel, buffers of TCP", before.buffers, after.buffers)
	row("clients, private", before.visitors.Private, after.visitors.Private)
	row("all that the machine has given away", before.taken, after.taken)
	f.lab.report.atMost("million: a node's private bytes of an idle authenticated socket", private, 300)
}
