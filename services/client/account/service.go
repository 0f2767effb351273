package account

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"hanse/pkg/appservice"
	"hanse/pkg/mac"
	"hanse/pkg/password"
	"hanse/pkg/userdb"
	mediav1 "hanse/proto/media/v1"
	"hanse/services/client/core"
	"hanse/services/client/uia"
)

// Registration is who may make an account.
type Registration struct {
	Enabled      bool             `yaml:"enabled" doc:"Whether anybody may register."`
	SharedSecret string           `yaml:"shared_secret" secret:"true" doc:"Secret for /_synapse/admin/v1/register, by which tools make accounts. Empty: closed."`
	Tokens       map[string]int64 `yaml:"tokens" secret:"true" doc:"Tokens of which registering demands one (m.login.registration_token), with the number of uses each has; 0: any number. None: no token is needed."`
	Guests       bool             `yaml:"guests" doc:"Whether guests may register, without a password."`
}

// Tokens is how long tokens live.
type Tokens struct {
	Access  time.Duration `yaml:"access" doc:"Life of the access tokens of clients that refresh them; those of others do not expire."`
	Refresh time.Duration `yaml:"refresh" doc:"Life of refresh tokens; 0: they do not expire."`
	OpenID  time.Duration `yaml:"openid" doc:"Life of OpenID tokens."`
}

// Deps are what accounts need beyond the core.
type Deps struct {
	UIA          *uia.UIA
	Passwords    *password.Hasher
	Appservices  *appservice.Registry
	Redis        redis.UniversalClient
	Nonces       *mac.Key // signs nonces of the shared secret registration
	Media        mediav1.MediaClient
	Registration Registration
	Tokens       Tokens
	BaseURL      string // told to who logs in; may be empty
}

// Account answers what clients ask about accounts.
type Account struct {
	*core.Core
	uia          *uia.UIA
	hasher       *password.Hasher
	apps         *appservice.Registry
	redis        redis.UniversalClient
	nonces       *mac.Key
	media        mediav1.MediaClient
	registration Registration
	tokens       Tokens
	baseURL      string
}

// New makes the concern and takes on its tasks.
func New(c *core.Core, d Deps) *Account {
	a := &Account{
		Core: c, uia: d.UIA, hasher: d.Passwords, apps: d.Appservices, redis: d.Redis, nonces: d.Nonces, media: d.Media,
		registration: d.Registration, tokens: d.Tokens, baseURL: d.BaseURL,
	}
	c.Tasks.Do(userdb.TaskDeactivate, a.leaveAll)
	c.Tasks.Do(userdb.TaskErase, a.eraseFiles)
	return a
}

// Routes registers the endpoints.
func (c *Account) Routes(rt *core.Routes) {
	c.loginRoutes(rt)
	c.registerRoutes(rt)
	c.accountRoutes(rt)
	c.deviceRoutes(rt)
	rt.Auth.Handle("POST /user/{userId}/openid/request_token", c.openIDToken)
}

// eraseFiles has the files of an erased account deleted.
func (c *Account) eraseFiles(ctx context.Context, t userdb.Task) error {
	_, err := c.media.Erase(ctx, &mediav1.EraseRequest{UserId: string(t.User)})
	return err
}
