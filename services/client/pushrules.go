package client

import (
	"context"

	"hanse/pkg/matrix/id"
)

func (c *Client) pushRuleRoutes(*routes) {}

func (c *Client) pushRules(context.Context, id.User) (any, error) { return nil, nil }
