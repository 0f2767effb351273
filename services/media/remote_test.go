package media

import (
	"testing"

	fedv1 "hanse/proto/federation/v1"
)

type remoteServers struct{ fedv1.FedOutClient }

func newRemoteServers(*testing.T) *remoteServers { return &remoteServers{} }
