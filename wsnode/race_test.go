//go:build race

package wsnode

const raceEnabled = true
