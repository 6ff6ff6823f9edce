package wsnode

// index finds peers by a key, of which several may have the same. It is a hash
// table whose lists run through links in the peers themselves, so that it takes
// few bytes of its own, and a peer leaves the list of a key that very many have as
// fast as any. It grows and shrinks by one list at a time, so that nobody waits
// for the whole of it to be made anew.
type index[K comparable] struct {
	key   func(*peer) K
	hash  func(K) uint64
	links func(*peer) *links

	chunks []*[chunkLists]*peer // the heads of the lists
	lists  int                  // in use
	high   int                  // the power of two that is no less than lists
	peers  int
}

// links are a peer's place in a list.
type links struct{ next, prev *peer }

const (
	chunkLists   = 255 // with the 8 bytes that the runtime puts before pointers, 2 KB
	peersPerList = 4   // on average, at most
)

func newIndex[K comparable](key func(*peer) K, hash func(K) uint64, links func(*peer) *links) index[K] {
	x := index[K]{key: key, hash: hash, links: links, high: 1}
	x.addList()
	return x
}

func (x *index[K]) head(list int) **peer { return &x.chunks[list/chunkLists][list%chunkLists] }

// listOf is the list of the keys with a hash. The lists beyond those in use are
// still part of the ones that they will be split from.
func (x *index[K]) listOf(hash uint64) int {
	list := int(hash & uint64(x.high-1))
	if list >= x.lists {
		list -= x.high / 2
	}
	return list
}

// like is the first peer whose key has a hash, or might: others follow it.
func (x *index[K]) like(hash uint64) *peer { return *x.head(x.listOf(hash)) }

// first is a peer with this key, or nil.
func (x *index[K]) first(key K) *peer { return x.from(x.like(x.hash(key)), key) }

// next is another peer with the key of p, after it, or nil.
func (x *index[K]) next(p *peer) *peer { return x.from(x.links(p).next, x.key(p)) }

func (x *index[K]) from(p *peer, key K) *peer {
	for p != nil && x.key(p) != key {
		p = x.links(p).next
	}
	return p
}

func (x *index[K]) add(p *peer) {
	x.link(x.listOf(x.hash(x.key(p))), p)
	if x.peers++; x.peers > x.lists*peersPerList {
		x.addList()
		x.deal(x.lists - 1 - x.high/2)
	}
}

func (x *index[K]) remove(p *peer) {
	l := x.links(p)
	if l.prev != nil {
		x.links(l.prev).next = l.next
	} else {
		*x.head(x.listOf(x.hash(x.key(p)))) = l.next
	}
	if l.next != nil {
		x.links(l.next).prev = l.prev
	}
	*l = links{}
	if x.peers--; x.lists > 1 && x.peers < x.lists*peersPerList/2 {
		x.dropList()
	}
}

func (x *index[K]) link(list int, p *peer) {
	head, l := x.head(list), x.links(p)
	l.prev, l.next = nil, *head
	if l.next != nil {
		x.links(l.next).prev = p
	}
	*head = p
}

// addList puts one more list into use.
func (x *index[K]) addList() {
	if x.lists == len(x.chunks)*chunkLists {
		x.chunks = append(x.chunks, new([chunkLists]*peer))
	}
	if x.lists++; x.lists > x.high {
		x.high *= 2
	}
}

// dropList gives the last list up.
func (x *index[K]) dropList() {
	last := x.lists - 1
	p := *x.head(last)
	*x.head(last) = nil
	x.lists = last
	x.putAll(p)
	if x.lists == x.high/2 {
		x.high = x.lists
	}
	if chunks := len(x.chunks) - 1; x.lists <= (chunks-1)*chunkLists { // with one to spare
		x.chunks[chunks] = nil
		x.chunks = x.chunks[:chunks]
	}
}

// deal puts the peers of a list where they belong.
func (x *index[K]) deal(list int) {
	p := *x.head(list)
	*x.head(list) = nil
	x.putAll(p)
}

// putAll puts p and those that follow it where they belong.
func (x *index[K]) putAll(p *peer) {
	for p != nil {
		next := x.links(p).next
		x.link(x.listOf(x.hash(x.key(p))), p)
		p = next
	}
}

// all calls fn for every peer. fn must not change the index.
func (x *index[K]) all(fn func(*peer)) {
	for list := range x.lists {
		for p := *x.head(list); p != nil; p = x.links(p).next {
			fn(p)
		}
	}
}
