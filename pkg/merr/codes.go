package merr

import "net/http"

// The errcodes that Hanse sends or acts on (client-server API, "Common error codes" and "Other
// error codes"; server-server API, "API standards").
const (
	CodeForbidden               = "M_FORBIDDEN"
	CodeUnknownToken            = "M_UNKNOWN_TOKEN"
	CodeMissingToken            = "M_MISSING_TOKEN"
	CodeUserLocked              = "M_USER_LOCKED"
	CodeUserSuspended           = "M_USER_SUSPENDED"
	CodeUserDeactivated         = "M_USER_DEACTIVATED"
	CodeBadJSON                 = "M_BAD_JSON"
	CodeNotJSON                 = "M_NOT_JSON"
	CodeNotFound                = "M_NOT_FOUND"
	CodeLimitExceeded           = "M_LIMIT_EXCEEDED"
	CodeUserLimitExceeded       = "M_USER_LIMIT_EXCEEDED"
	CodeResourceLimitExceeded   = "M_RESOURCE_LIMIT_EXCEEDED"
	CodeUnrecognized            = "M_UNRECOGNIZED"
	CodeUnknown                 = "M_UNKNOWN"
	CodeUnauthorized            = "M_UNAUTHORIZED"
	CodeUserInUse               = "M_USER_IN_USE"
	CodeInvalidUsername         = "M_INVALID_USERNAME"
	CodeRoomInUse               = "M_ROOM_IN_USE"
	CodeInvalidRoomState        = "M_INVALID_ROOM_STATE"
	CodeUnsupportedRoomVersion  = "M_UNSUPPORTED_ROOM_VERSION"
	CodeIncompatibleRoomVersion = "M_INCOMPATIBLE_ROOM_VERSION"
	CodeBadState                = "M_BAD_STATE"
	CodeBadAlias                = "M_BAD_ALIAS"
	CodeGuestAccessForbidden    = "M_GUEST_ACCESS_FORBIDDEN"
	CodeMissingParam            = "M_MISSING_PARAM"
	CodeInvalidParam            = "M_INVALID_PARAM"
	CodeTooLarge                = "M_TOO_LARGE"
	CodeExclusive               = "M_EXCLUSIVE"
	CodeWeakPassword            = "M_WEAK_PASSWORD"
	CodeUnableToAuthorizeJoin   = "M_UNABLE_TO_AUTHORISE_JOIN"
	CodeUnableToGrantJoin       = "M_UNABLE_TO_GRANT_JOIN"
	CodeDuplicateAnnotation     = "M_DUPLICATE_ANNOTATION"
	CodeWrongRoomKeysVersion    = "M_WRONG_ROOM_KEYS_VERSION"
	CodeInvalidSignature        = "M_INVALID_SIGNATURE"
	CodeUnknownDevice           = "M_UNKNOWN_DEVICE"
	CodeInviteBlocked           = "M_INVITE_BLOCKED"
	CodeProfileTooLarge         = "M_PROFILE_TOO_LARGE"
	CodeKeyTooLarge             = "M_KEY_TOO_LARGE"
	CodeAppserviceLogin         = "M_APPSERVICE_LOGIN_UNSUPPORTED"
	CodeThreepidDenied          = "M_THREEPID_DENIED"
	CodeThreepidNotFound        = "M_THREEPID_NOT_FOUND"
	CodeThreepidMedium          = "M_THREEPID_MEDIUM_NOT_SUPPORTED"
	CodeNotYetUploaded          = "M_NOT_YET_UPLOADED"
	CodeCannotOverwriteMedia    = "M_CANNOT_OVERWRITE_MEDIA"
	CodeBadStatus               = "M_BAD_STATUS"
	CodeConnectionFailed        = "M_CONNECTION_FAILED"
	CodeConnectionTimeout       = "M_CONNECTION_TIMEOUT"
	CodeURLNotSet               = "M_URL_NOT_SET"
	CodeDestinationRejected     = "M_DESTINATION_REJECTED"
	CodeServerNotTrusted        = "M_SERVER_NOT_TRUSTED"
	CodeUnknownPos              = "M_UNKNOWN_POS"
	// CodePartialState is not in the specification yet (MSC3895); servers send it under this name.
	CodePartialState = "ORG.MATRIX.MSC3895_UNABLE_DUE_TO_PARTIAL_STATE"
)

// New is for the errors that have no constructor of their own.
func New(status int, code, msg string) *Error {
	return &Error{Status: status, Code: code, Msg: msg}
}

// Forbidden is 403 M_FORBIDDEN: not allowed, by power level, membership or policy.
func Forbidden(msg string) *Error { return New(http.StatusForbidden, CodeForbidden, msg) }

// UnknownToken is 401 M_UNKNOWN_TOKEN. soft tells the client to keep its keys and log in again
// (client-server API, "Soft logout").
func UnknownToken(soft bool) *Error {
	return New(http.StatusUnauthorized, CodeUnknownToken, "Unknown or expired access token").With("soft_logout", soft)
}

// MissingToken is 401 M_MISSING_TOKEN.
func MissingToken() *Error {
	return New(http.StatusUnauthorized, CodeMissingToken, "Missing access token")
}

// Unauthorized is 401 M_UNAUTHORIZED. Federation uses it for requests without a valid signature.
func Unauthorized(msg string) *Error { return New(http.StatusUnauthorized, CodeUnauthorized, msg) }

// UserLocked is 401 M_USER_LOCKED with soft_logout (client-server API, "Account locking").
func UserLocked() *Error {
	return New(http.StatusUnauthorized, CodeUserLocked, "This account has been locked").With("soft_logout", true)
}

// UserSuspended is 403 M_USER_SUSPENDED.
func UserSuspended() *Error {
	return New(http.StatusForbidden, CodeUserSuspended, "This account has been suspended")
}

// UserDeactivated is 403 M_USER_DEACTIVATED.
func UserDeactivated() *Error {
	return New(http.StatusForbidden, CodeUserDeactivated, "This account has been deactivated")
}

// BadJSON is 400 M_BAD_JSON: valid JSON with missing or wrongly typed members.
func BadJSON(msg string) *Error { return New(http.StatusBadRequest, CodeBadJSON, msg) }

// NotJSON is 400 M_NOT_JSON: the body is not JSON.
func NotJSON(msg string) *Error { return New(http.StatusBadRequest, CodeNotJSON, msg) }

// NotFound is 404 M_NOT_FOUND.
func NotFound(msg string) *Error { return New(http.StatusNotFound, CodeNotFound, msg) }

// LimitExceeded is 429 M_LIMIT_EXCEEDED; retryAfterMS is at least 1 (client-server API, "Rate
// limiting").
func LimitExceeded(retryAfterMS int64) *Error {
	e := New(http.StatusTooManyRequests, CodeLimitExceeded, "Too many requests")
	e.RetryAfterMS = max(retryAfterMS, 1)
	return e
}

// Unrecognized is M_UNRECOGNIZED: 404 for an unknown endpoint, 405 for an unknown method of a known
// one.
func Unrecognized(status int) *Error {
	return New(status, CodeUnrecognized, "Unrecognized request")
}

// Unknown is 500 M_UNKNOWN with a text that is safe to show. Errors that are not Matrix errors
// become this one by themselves.
func Unknown(msg string) *Error { return New(http.StatusInternalServerError, CodeUnknown, msg) }

// Unavailable is 503 M_UNKNOWN: try again in a moment.
func Unavailable(msg string) *Error {
	e := New(http.StatusServiceUnavailable, CodeUnknown, msg)
	e.RetryAfterMS = 1000
	return e
}

// UnableDueToPartialState is 404 ORG.MATRIX.MSC3895_UNABLE_DUE_TO_PARTIAL_STATE: we have joined the room without its
// members, and cannot answer before we know them.
func UnableDueToPartialState() *Error {
	return New(http.StatusNotFound, CodePartialState, "This server does not have the whole state of the room yet")
}

// BadGateway is 502 M_UNKNOWN: another server failed us.
func BadGateway(msg string) *Error { return New(http.StatusBadGateway, CodeUnknown, msg) }

// MissingParam is 400 M_MISSING_PARAM; name is the parameter's.
func MissingParam(name string) *Error {
	return New(http.StatusBadRequest, CodeMissingParam, "Missing parameter: "+name)
}

// InvalidParam is 400 M_INVALID_PARAM.
func InvalidParam(msg string) *Error { return New(http.StatusBadRequest, CodeInvalidParam, msg) }

// TooLarge is 413 M_TOO_LARGE: the request or the event is larger than allowed.
func TooLarge(msg string) *Error { return New(http.StatusRequestEntityTooLarge, CodeTooLarge, msg) }

// UserInUse is 400 M_USER_IN_USE.
func UserInUse() *Error {
	return New(http.StatusBadRequest, CodeUserInUse, "This user ID is already taken")
}

// InvalidUsername is 400 M_INVALID_USERNAME.
func InvalidUsername(msg string) *Error {
	return New(http.StatusBadRequest, CodeInvalidUsername, msg)
}

// Exclusive is 400 M_EXCLUSIVE: reserved by an application service.
func Exclusive(msg string) *Error { return New(http.StatusBadRequest, CodeExclusive, msg) }

// WeakPassword is 400 M_WEAK_PASSWORD.
func WeakPassword(msg string) *Error { return New(http.StatusBadRequest, CodeWeakPassword, msg) }

// RoomInUse is 400 M_ROOM_IN_USE: the alias is taken.
func RoomInUse() *Error {
	return New(http.StatusBadRequest, CodeRoomInUse, "This room alias is already taken")
}

// AliasTaken is 409 M_UNKNOWN, which is what PUT /directory/room/{roomAlias} answers for an alias
// that exists.
func AliasTaken(alias string) *Error {
	return New(http.StatusConflict, CodeUnknown, "Room alias "+alias+" already exists")
}

// InvalidRoomState is 400 M_INVALID_ROOM_STATE: createRoom's initial state is not possible.
func InvalidRoomState(msg string) *Error {
	return New(http.StatusBadRequest, CodeInvalidRoomState, msg)
}

// UnsupportedRoomVersion is 400 M_UNSUPPORTED_ROOM_VERSION: createRoom and upgrade.
func UnsupportedRoomVersion(version string) *Error {
	return New(http.StatusBadRequest, CodeUnsupportedRoomVersion, "Room version "+version+" is not supported")
}

// IncompatibleRoomVersion is 400 M_INCOMPATIBLE_ROOM_VERSION: the joining or invited server does
// not support the room's version.
func IncompatibleRoomVersion(version string) *Error {
	return New(http.StatusBadRequest, CodeIncompatibleRoomVersion,
		"Your homeserver does not support the features required to join this room").With("room_version", version)
}

// UnableToAuthorizeJoin is 400 M_UNABLE_TO_AUTHORISE_JOIN: this server cannot check the conditions
// of a restricted join; the joining server should ask another.
func UnableToAuthorizeJoin(msg string) *Error {
	return New(http.StatusBadRequest, CodeUnableToAuthorizeJoin, msg)
}

// UnableToGrantJoin is 400 M_UNABLE_TO_GRANT_JOIN: the conditions hold, but nobody here has the
// power to invite.
func UnableToGrantJoin(msg string) *Error {
	return New(http.StatusBadRequest, CodeUnableToGrantJoin, msg)
}

// BadState is 400 M_BAD_STATE: the change cannot be made in the present state, such as unbanning
// somebody who is not banned.
func BadState(msg string) *Error { return New(http.StatusBadRequest, CodeBadState, msg) }

// BadAlias is 400 M_BAD_ALIAS: a canonical alias that does not point at the room.
func BadAlias(msg string) *Error { return New(http.StatusBadRequest, CodeBadAlias, msg) }

// GuestAccessForbidden is 403 M_GUEST_ACCESS_FORBIDDEN.
func GuestAccessForbidden() *Error {
	return New(http.StatusForbidden, CodeGuestAccessForbidden, "Guest access not allowed")
}

// DuplicateAnnotation is 400 M_DUPLICATE_ANNOTATION: the same reaction twice.
func DuplicateAnnotation() *Error {
	return New(http.StatusBadRequest, CodeDuplicateAnnotation, "Can't send same reaction twice")
}

// WrongRoomKeysVersion is 403 M_WRONG_ROOM_KEYS_VERSION with the current backup version.
func WrongRoomKeysVersion(current string) *Error {
	return New(http.StatusForbidden, CodeWrongRoomKeysVersion, "Wrong backup version.").With("current_version", current)
}

// InvalidSignature is 400 M_INVALID_SIGNATURE: an uploaded key or cross-signature does not verify.
func InvalidSignature(msg string) *Error {
	return New(http.StatusBadRequest, CodeInvalidSignature, msg)
}

// InviteBlocked is 403 M_INVITE_BLOCKED (client-server API, "Invite permission").
func InviteBlocked() *Error {
	return New(http.StatusForbidden, CodeInviteBlocked, "The user does not accept invites from you")
}

// UIA is the 401 of user-interactive authentication: flows, params, session and completed are
// members of body. code and msg are empty in the first answer and name the failure of a stage
// afterwards.
func UIA(code, msg string, body map[string]any) *Error {
	return &Error{Status: http.StatusUnauthorized, Code: code, Msg: msg, Extra: body}
}
