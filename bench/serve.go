package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/metrics"
	"runtime/pprof"
	"syscall"
	"time"
)

// serveCommand is the argument that makes this program a server: it runs again
// as each server to be measured, so that their CPU time is never mixed with the
// load's.
const serveCommand = "serve"

// spec says which server to be. It is the argument after serveCommand.
type spec struct {
	Kind      string
	Dir       string        // the server's own folder
	Keys      string        // the folder of the run's certificates
	Procs     int           // GOMAXPROCS; 0 leaves it
	Reply     int           // bare: bytes of an answer
	Authority string        // node, issuer, follower: its authority's address
	Addr      string        // authority: where to listen; a free port where empty
	MaxTTL    time.Duration // authority: of tokens, where that is above the default
	Fill      fill          // authority: what is put into its store before it serves
	Portable  bool          // node: its portable driver
	TLS       bool          // node, gobwas: over TLS
	Addresses int           // node: how many it remembers, where that is not the default
	SendBytes int           // node: the kernel's buffer for what a socket is sent, where the kernel does not choose
}

// server is a started server of any kind.
type server struct {
	addr  string
	stats func() (groups, grouped uint64)        // nil where there are no commits
	do    map[string]func(order) (answer, error) // orders of its own
	close func() error
}

// servers start the servers, by spec.Kind.
var servers = map[string]func(spec) (*server, error){
	"authority": serveAuthority,
	"bare":      serveBare,
	"node":      serveNode,
	"checked":   serveChecked,
	"issuer":    serveIssuer,
	"follower":  serveFollower,
	"gobwas":    serveGobwas,
	"gws":       serveGws,
	"gorilla":   serveGorilla,
	"visitors":  serveVisitors,
	"hostile":   serveHostile,
	"floor":     serveFloor,
}

// order is what the load's process asks of a server's, a JSON line on stdin.
type order struct {
	Do   string // "usage", "memory", "garbage" (the same without a collection), "profile", "unprofile" or one of the server's own
	File string // where profiles go, without its ending
	// Of the server's own.
	For      time.Duration
	Time     time.Time
	Count    int
	Visitors visitorsOrder
	Manner   string // of hostile clients
}

// visitorsOrder is which sockets visitors are to open.
type visitorsOrder struct {
	Addr      string // of the node
	First     int    // number of the first, among those of all visitors
	ByAddress int    // so many of them come from an address with markedPrefix
	BySubject int    // so many of them are of markedSubject
}

// answer is a JSON line on stdout; the first comes unasked, once it serves.
type answer struct {
	Error           string
	Addr            string
	User, System    time.Duration // CPU time since the start
	Allocs          uint64        // objects allocated since the start
	Groups, Grouped uint64        // of the store: commits, and calls in them
	Memory          memory
	Gauges          map[string]float64 // of a node: its metrics by name and label values, as sessions_closed_total{revoked}
	Count           int64              // here and below: of the server's own
	Time            time.Time
	Commits         commits
	Took            time.Duration
	Latency         []time.Duration
	Ended           int64 // here and below: of hostile clients
	TurnedAway      int64
}

// memory is what a process holds, in bytes; 0 where it cannot be told.
type memory struct {
	Heap    int64 // live objects
	Private int64 // resident, and its own
	Mapped  int64 // resident, and of files: the store
	Most    int64 // that was ever resident
}

// serve is a server's process: it ends when stdin does.
func serve(arg string, in io.Reader, out, stderr io.Writer) int {
	signal.Ignore(os.Interrupt) // which a terminal sends to all: the run ends its servers
	if err := serveOrders(arg, json.NewDecoder(in), json.NewEncoder(out)); err != nil {
		fmt.Fprintln(stderr, "bench server: error:", err)
		return 1
	}
	return 0
}

func serveOrders(arg string, in *json.Decoder, out *json.Encoder) (err error) {
	s, err := startServer(arg)
	if err != nil {
		return out.Encode(answer{Error: err.Error()}) // for the load to tell
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := out.Encode(answer{Addr: s.addr}); err != nil {
		return err
	}
	var profile *os.File
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var a answer
		switch o.Do {
		case "usage":
			a = usageNow()
			if s.stats != nil {
				a.Groups, a.Grouped = s.stats()
			}
		case "memory":
			a.Memory = memoryNow()
		case "garbage":
			a.Memory = memoryAsItIs()
		case "profile":
			if profile, err = os.Create(o.File + ".cpu.pprof"); err == nil {
				err = pprof.StartCPUProfile(profile)
			}
		case "unprofile":
			pprof.StopCPUProfile()
			err = errors.Join(profile.Close(), writeAllocs(o.File+".allocs.pprof"))
		default:
			if do := s.do[o.Do]; do != nil {
				a, err = do(o)
			} else {
				err = fmt.Errorf("unknown order %q", o.Do)
			}
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

// writeAllocs writes what was allocated where, since the start.
func writeAllocs(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
}

func startServer(arg string) (*server, error) {
	var sp spec
	if err := json.Unmarshal([]byte(arg), &sp); err != nil {
		return nil, err
	}
	start := servers[sp.Kind]
	if start == nil {
		return nil, fmt.Errorf("no server is called %q", sp.Kind)
	}
	if sp.Procs > 0 {
		runtime.GOMAXPROCS(sp.Procs)
	}
	return start(sp)
}

// usageNow reads what this process has used.
func usageNow() answer {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return answer{Error: err.Error()}
	}
	allocs := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}}
	metrics.Read(allocs)
	return answer{User: time.Duration(u.Utime.Nano()), System: time.Duration(u.Stime.Nano()), Allocs: allocs[0].Value.Uint64()}
}
