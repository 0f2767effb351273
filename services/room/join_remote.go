package room

import (
	"context"

	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	roomv1 "hanse/proto/room/v1"
)

func (s *Service) joinElsewhere(_ context.Context, _ id.Room, _ intent, _ []string) (*roomv1.SendResponse, error) {
	return nil, merr.NotFound("Unknown room")
}

func (s *Service) inviteElsewhere(_ context.Context, _ id.Room, _ intent, _ id.User) (*roomv1.SendResponse, error) {
	return nil, merr.NotFound("Unknown server")
}

func (s *Service) leaveElsewhere(_ context.Context, _ id.Room, _ intent) (*roomv1.SendResponse, error) {
	return nil, merr.NotFound("Unknown room")
}

func (s *Service) knockElsewhere(_ context.Context, _ id.Room, _ intent, _ []string) (*roomv1.SendResponse, error) {
	return nil, merr.NotFound("Unknown room")
}
