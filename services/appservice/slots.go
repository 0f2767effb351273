package appservice

import "context"

// slots bounds the transactions on their way: a quarter of all is for services that have not answered well lately, so that those
// which hang delay nobody else.
type slots struct{ swift, others chan struct{} }

func newSlots(n int) *slots {
	return &slots{swift: make(chan struct{}, n-n/4), others: make(chan struct{}, n/4)}
}

// enter waits for a slot. It returns what gives the slot back.
func (s *slots) enter(ctx context.Context, swift bool) (func(), error) {
	of := s.others
	if swift {
		of = s.swift
	}
	select {
	case of <- struct{}{}:
		return func() { <-of }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
