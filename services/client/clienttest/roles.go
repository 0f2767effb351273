package clienttest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	fedv1 "hanse/proto/federation/v1"
	mediav1 "hanse/proto/media/v1"
	roomv1 "hanse/proto/room/v1"
)

// serveRoles serves the recorders of the other roles.
func (c *Cluster) serveRoles() *grpc.ClientConn {
	l := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	roomv1.RegisterRoomServer(srv, c.Rooms)
	mediav1.RegisterMediaServer(srv, c.Media)
	fedv1.RegisterFedOutServer(srv, c.Remote)
	go func() { _ = srv.Serve(l) }()
	c.t.Cleanup(srv.Stop)
	conn, err := grpc.NewClient("passthrough:///roles", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	Must(c.t, err)
	return conn
}

// oneOwner routes all partitions to one worker.
type oneOwner struct{ conn grpc.ClientConnInterface }

func (o oneOwner) Call(ctx context.Context, _ uint32, fn func(context.Context, grpc.ClientConnInterface) error) error {
	return fn(ctx, o.conn)
}

// Rooms is what the owners of partitions were asked.
type Rooms struct {
	roomv1.UnimplementedRoomServer
	Mu      sync.Mutex
	Devices []*roomv1.DeviceChangesRequest
	Leaves  []*roomv1.LeaveRequest
	Joins   []*roomv1.JoinRequest
	Fail    error // of changes of devices
}

func (r *Rooms) DeviceChanges(_ context.Context, q *roomv1.DeviceChangesRequest) (*roomv1.DeviceChangesResponse, error) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	if r.Fail != nil {
		return nil, r.Fail
	}
	r.Devices = append(r.Devices, q)
	return &roomv1.DeviceChangesResponse{}, nil
}

func (r *Rooms) Join(_ context.Context, q *roomv1.JoinRequest) (*roomv1.SendResponse, error) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	r.Joins = append(r.Joins, q)
	return &roomv1.SendResponse{}, nil
}

func (r *Rooms) Leave(_ context.Context, q *roomv1.LeaveRequest) (*roomv1.SendResponse, error) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	r.Leaves = append(r.Leaves, q)
	return &roomv1.SendResponse{}, nil
}

// Media is whose files media workers were asked to delete.
type Media struct {
	mediav1.UnimplementedMediaServer
	Mu     sync.Mutex
	Erased []string
}

func (m *Media) Erase(_ context.Context, q *mediav1.EraseRequest) (*mediav1.EraseResponse, error) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.Erased = append(m.Erased, q.UserId)
	return &mediav1.EraseResponse{}, nil
}

// Remote answers what is asked of other servers.
type Remote struct {
	fedv1.UnimplementedFedOutServer
	Mu     sync.Mutex
	Asked  []*fedv1.DoRequest
	Answer func(*fedv1.DoRequest) (int, string)
}

func (r *Remote) Do(q *fedv1.DoRequest, s grpc.ServerStreamingServer[fedv1.DoResponse]) error {
	r.Mu.Lock()
	r.Asked = append(r.Asked, q)
	answer := r.Answer
	r.Mu.Unlock()
	if answer == nil {
		return fmt.Errorf("unreachable")
	}
	status, body := answer(q)
	if err := s.Send(&fedv1.DoResponse{Status: int32(status)}); err != nil {
		return err
	}
	return s.Send(&fedv1.DoResponse{Chunk: []byte(body)})
}

// Far answers requests to far.example by the beginning of their paths.
func (c *Cluster) Far(answers map[string]string) {
	c.Remote.Mu.Lock()
	defer c.Remote.Mu.Unlock()
	c.Remote.Answer = func(q *fedv1.DoRequest) (int, string) {
		uri, err := url.PathUnescape(q.Uri)
		for prefix, body := range answers {
			if err == nil && q.Destination == "far.example" && strings.HasPrefix(uri, "/_matrix/federation/v1"+prefix) {
				return http.StatusOK, body
			}
		}
		return http.StatusNotFound, `{"errcode":"M_NOT_FOUND","error":"none"}`
	}
}
