package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// devSettings is the file in defaultStateDir by which the other commands find a
// gatehouse dev.
var devSettings = filepath.Join("dev", "cli.yaml")

// defaultStateDir is Gatehouse's folder for what its programs keep for a user:
// gatehouse in $XDG_STATE_HOME or ~/.local/state, on macOS in
// ~/Library/Application Support, on Windows in %LocalAppData%.
func defaultStateDir() (string, error) {
	dir, err := userStateDir()
	if err != nil {
		return "", fmt.Errorf("the user's state folder: %w", err)
	}
	return filepath.Join(dir, "gatehouse"), nil
}

func userStateDir() (string, error) {
	if runtime.GOOS == "windows" {
		if dir := os.Getenv("LocalAppData"); dir != "" {
			return dir, nil
		}
		return "", errors.New("%LocalAppData% is not set")
	}
	// A relative path is to be ignored, says the XDG Base Directory Specification.
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) && runtime.GOOS != "darwin" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	if runtime.GOOS == "darwin" {
		return filepath.Join(home, "Library", "Application Support"), nil
	}
	return filepath.Join(home, ".local", "state"), nil
}
