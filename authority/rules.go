package authority

import (
	"fmt"
	"slices"

	"google.golang.org/grpc"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
	"github.com/gatehouse-ws/gatehouse/storage"
)

const (
	issuer = storage.Issuer
	node   = storage.Node
	admin  = storage.Admin
	viewer = storage.Viewer
)

// rules says who may call each method; the proto says it for readers. That an
// issuer stays within its tenants is for each handler to see to, since only it
// knows the tenant.
var rules = map[string][]storage.Role{
	pb.TokenService_IssueToken_FullMethodName:      {issuer, admin},
	pb.TokenService_IssueTokens_FullMethodName:     {issuer, admin},
	pb.TokenService_IntrospectToken_FullMethodName: {issuer, admin, viewer},
	pb.TokenService_GetToken_FullMethodName:        {issuer, admin, viewer},
	pb.TokenService_ListTokens_FullMethodName:      {issuer, admin, viewer},

	pb.RevocationService_Revoke_FullMethodName:          {issuer, admin},
	pb.RevocationService_WatchReceipt_FullMethodName:    {issuer, admin},
	pb.RevocationService_GetReceipt_FullMethodName:      {issuer, admin},
	pb.RevocationService_ListRevocations_FullMethodName: {admin, viewer},
	pb.RevocationService_Lock_FullMethodName:            {issuer, admin},
	pb.RevocationService_Unlock_FullMethodName:          {issuer, admin},
	pb.RevocationService_ListLocks_FullMethodName:       {issuer, admin, viewer},

	pb.NodeService_Attach_FullMethodName:         {node},
	pb.NodeService_Redeem_FullMethodName:         {node},
	pb.NodeService_ReportSessions_FullMethodName: {node},

	pb.SessionService_ListSessions_FullMethodName: {admin, viewer},
	pb.SessionService_ListNodes_FullMethodName:    {admin, viewer},
	pb.SessionService_ForgetNode_FullMethodName:   {admin},

	pb.AuditService_ListAudit_FullMethodName:     {admin, viewer},
	pb.AuditService_GetCheckpoint_FullMethodName: {admin, viewer},

	pb.CredentialService_CreateCredential_FullMethodName:  {admin},
	pb.CredentialService_ReissueCredential_FullMethodName: {admin},
	pb.CredentialService_ListCredentials_FullMethodName:   {admin, viewer},
	pb.CredentialService_DisableCredential_FullMethodName: {admin},
	pb.CredentialService_EnableCredential_FullMethodName:  {admin},
	pb.CredentialService_RenewCertificate_FullMethodName:  {issuer, node, admin, viewer},
	pb.CredentialService_RotateEdgeKeys_FullMethodName:    {admin},
	pb.CredentialService_ListEdgeKeys_FullMethodName:      {admin, viewer},
	pb.CredentialService_RotateCA_FullMethodName:          {admin},
	pb.CredentialService_ListCAs_FullMethodName:           {admin, viewer},
	pb.CredentialService_RetireCA_FullMethodName:          {admin},

	pb.MaintenanceService_Backup_FullMethodName:  {admin},
	pb.MaintenanceService_Compact_FullMethodName: {admin},
}

// open are services that any credential may call: they tell nothing of
// anybody's tokens.
var open = []string{
	"grpc.health.v1.Health",
	"grpc.reflection.v1.ServerReflection",
	"grpc.reflection.v1alpha.ServerReflection",
}

// checkRules reports a registered method without a rule, and a rule without a
// method: either stops the start.
func checkRules(services map[string]grpc.ServiceInfo) error {
	seen := map[string]bool{}
	for name, info := range services {
		if slices.Contains(open, name) {
			continue
		}
		for _, m := range info.Methods {
			full := "/" + name + "/" + m.Name
			if _, ok := rules[full]; !ok {
				return fmt.Errorf("method %s has no rule that says who may call it", full)
			}
			seen[full] = true
		}
	}
	for full := range rules {
		if !seen[full] {
			return fmt.Errorf("a rule names method %s, which no service has", full)
		}
	}
	return nil
}
