package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

// ownActions are actions of records that are no method of the authority's, as
// docs/audit.md lists them: what it does by itself, and the calls of open
// services that it refuses.
var ownActions = []string{
	"AuditOpened", "AuditLost", "Redeem", "SessionEnd", "RegisterInstance", "RemoveInstance", "RotateEdgeKey", "Enforced", "ReceiptComplete", "Skipped",
	"Check", "List", "WatchStream", "ServerReflectionInfoStream",
}

// ownOutcomes are outcomes of records that are no reason.
var ownOutcomes = []string{"ok", "canceled", "deadline_exceeded", "unsealed", "damaged"}

// auditActions lists all actions that a record may have.
func auditActions() []string {
	actions := slices.Clone(ownActions)
	protoregistry.GlobalFiles.RangeFilesByPackage(pb.File_gatehouse_authority_v1_reason_proto.Package(), func(fd protoreflect.FileDescriptor) bool {
		for i := range fd.Services().Len() {
			methods := fd.Services().Get(i).Methods()
			for j := range methods.Len() {
				m := methods.Get(j)
				name := string(m.Name())
				if m.IsStreamingClient() || m.IsStreamingServer() {
					name += "Stream"
				}
				actions = append(actions, name)
			}
		}
		return true
	})
	slices.Sort(actions)
	return actions
}

// auditOutcomes lists all outcomes that a record may have.
func auditOutcomes() []string {
	outcomes := slices.Clone(ownOutcomes)
	for n := range pb.Reason_name {
		outcomes = append(outcomes, pb.Reason(n).Label())
	}
	slices.Sort(outcomes[len(ownOutcomes):])
	return outcomes
}

func completeAuditWords(cmd *cobra.Command) {
	completeWith(cmd, "action", auditActions()...)
	completeWith(cmd, "outcome", auditOutcomes()...)
}

// checkWord refuses what no record can have: that none is found would read as
// if it had never happened.
func checkWord(flag, word string, known []string) error {
	if word == "" || slices.Contains(known, word) {
		return nil
	}
	return usagef("--%s: no record can have %q: want one of %s", flag, word, strings.Join(known, ", "))
}
