package node

// RoleAppservice tells application services what happens.
const RoleAppservice = "appservice"
