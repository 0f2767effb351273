//go:build interop

package interop

import (
	"testing"

	"hanse/tools/mxclient"
)

// Both servers take registrations.
func TestRegister(t *testing.T) {
	for name, base := range map[string]string{"hanse": hanse.BaseURL, "synapse": other.baseURL} {
		secret := hanse.SharedSecret
		if name == "synapse" {
			secret = other.secret
		}
		c := mxclient.New(base, mxclient.Options{})
		if _, err := c.RegisterShared(t.Context(), secret, "smoke", "smoke-password-1", false); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
