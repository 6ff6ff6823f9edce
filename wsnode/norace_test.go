//go:build !race

package wsnode

const raceEnabled = false
