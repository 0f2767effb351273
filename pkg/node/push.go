package node

// RolePush tells push gateways of notifications.
const RolePush = "push"
