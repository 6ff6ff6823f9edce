package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func versionLine() string {
	return fmt.Sprintf("gatehouse %s (%s %s/%s)", pb.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version",
		Example: "  gatehouse version\n  gatehouse version -o json | jq -r .version",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			if c.format == formatJSON {
				return c.printValue(struct {
					Version string `json:"version"`
					Go      string `json:"go"`
					OS      string `json:"os"`
					Arch    string `json:"arch"`
				}{pb.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH})
			}
			return c.printf("%s\n", versionLine())
		},
	}
}
