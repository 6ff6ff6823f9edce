package authorityv1

import (
	"fmt"
	"strconv"
	"strings"
)

// Version is this release, which every hello carries.
const Version = "0.1.0"

// FeatureAcknowledged is that of an authority whose answers to heartbeats tell
// what of a node's acknowledgements is on disk.
const FeatureAcknowledged = "acknowledged"

// FeatureTrust is that of a node that takes word of the CAs to know its
// authority by.
const FeatureTrust = "trust"

// FeatureSocketLife is that of a node that ends every socket in its time though no
// session fence is set.
const FeatureSocketLife = "socket_life"

// CheckVersion reports why a peer of version v can't be worked with: nodes and
// authorities of one major version and neighbouring minor ones work together.
// It returns nil where they do.
func CheckVersion(v string) error {
	major, minor, ok := parseVersion(v)
	if !ok {
		return fmt.Errorf("version %q is not MAJOR.MINOR.PATCH", v)
	}
	ourMajor, ourMinor, _ := parseVersion(Version)
	if major != ourMajor || max(minor, ourMinor)-min(minor, ourMinor) > 1 {
		return fmt.Errorf("version %s does not work with %s: at most one minor version may lie between", v, Version)
	}
	return nil
}

func parseVersion(v string) (major, minor uint64, ok bool) {
	parts := strings.Split(v, ".")
	if len(parts) != 3 || len(v) > 32 {
		return 0, 0, false
	}
	var n [3]uint64
	for i, p := range parts {
		var err error
		if n[i], err = strconv.ParseUint(p, 10, 16); err != nil {
			return 0, 0, false
		}
	}
	return n[0], n[1], true
}
