package discovery

import (
	"errors"
	"net/url"
)

// Config is what an operator tells the world.
type Config struct {
	PublicBaseURL string  `yaml:"public_base_url" doc:"Where clients reach the client API, as https://matrix.example.org; answered by /.well-known/matrix/client. Empty: not answered."`
	PublicServer  string  `yaml:"public_server" doc:"Host and port where other servers reach the federation API; answered by /.well-known/matrix/server. Empty: not answered."`
	Support       Support `yaml:"support"`
}

// Support is what /.well-known/matrix/support answers.
type Support struct {
	Page     string    `yaml:"page" doc:"URL of a page that helps users; answered by /.well-known/matrix/support."`
	Contacts []Contact `yaml:"contacts" doc:"Who can be asked for help."`
}

// Contact is one way to reach the operator.
type Contact struct {
	Role     string `yaml:"role" doc:"m.role.admin, m.role.security, m.role.dpo or m.role.moderator."`
	MatrixID string `yaml:"matrix_id" doc:"Matrix user ID."`
	Email    string `yaml:"email" doc:"Mail address."`
}

// Validate reports a base URL that is none.
func (c *Config) Validate() error {
	if u, err := url.Parse(c.PublicBaseURL); c.PublicBaseURL != "" && (err != nil || u.Host == "") {
		return errors.New("public_base_url: want https://host")
	}
	return nil
}
