package app

import (
	"hanse/pkg/node"
)

// builder makes what roles are built from; what several roles share is made once.
type builder struct {
	cfg  *Config
	node *node.Node
}
