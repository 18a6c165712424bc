package token

import "errors"

var (
	// ErrForged: the signature or the form is wrong.
	ErrForged = errors.New("token is not valid")
	// ErrUnknownKey: no key of the set may have signed it.
	ErrUnknownKey = errors.New("token is signed by an unknown key")
	// ErrExpired: the token or its key is outside its time.
	ErrExpired = errors.New("token has expired or is not valid yet")
	// ErrRevoked: the token's key or id was revoked.
	ErrRevoked = errors.New("token was revoked")
	// ErrForeign: the token is for another asset, run or audience.
	ErrForeign = errors.New("token is for something else")
	// ErrRule: the viewer's place, address or origin isn't allowed.
	ErrRule = errors.New("not allowed here")
)
