package problem

import (
	"net/http"
	"slices"
)

// Kind is one documented sort of problem.
type Kind struct {
	Code   string `json:"code"`
	Status int    `json:"status"`
	Title  string `json:"title"`
	// Help says when it happens and what to do.
	Help string `json:"help"`
}

// The kinds. Codes are part of the API and never change their meaning.
var (
	Unauthorized = Kind{"unauthorized", http.StatusUnauthorized, "API key needed",
		"The request has no API key, or one that is unknown or revoked. Send `Authorization: Bearer mk_…`."}
	Forbidden = Kind{"forbidden", http.StatusForbidden, "Not allowed for this API key",
		"The key's role doesn't include the operation: `read` keys read, `write` keys also create, change and delete, `admin` keys also manage keys."}
	NotFound = Kind{"not-found", http.StatusNotFound, "Not found",
		"There is no such thing, it was deleted, or it belongs to another owner."}
	Gone = Kind{"upload-gone", http.StatusGone, "Upload has ended",
		"The upload has failed, expired or was terminated, and takes no more bytes. Create a new one."}
	MethodNotAllowed = Kind{"method-not-allowed", http.StatusMethodNotAllowed, "Method not allowed",
		"The path exists, but not for this method; `Allow` lists those it has."}
	BadRequest = Kind{"invalid-request", http.StatusBadRequest, "Request can't be read",
		"The body isn't the JSON this operation takes, or a header or parameter is malformed."}
	InvalidField = Kind{"invalid-field", http.StatusUnprocessableEntity, "A value isn't allowed",
		"The request is well formed, but values in it aren't; `errors` names each with what it may be."}
	MediaType = Kind{"unsupported-media-type", http.StatusUnsupportedMediaType, "Unsupported media type",
		"Send `application/json`, or for a tus PATCH `application/offset+octet-stream`."}
	BodyTooLarge = Kind{"body-too-large", http.StatusRequestEntityTooLarge, "Request body is too large",
		"The body is larger than this operation takes."}
	UploadTooLarge = Kind{"upload-too-large", http.StatusRequestEntityTooLarge, "File is too large",
		"The file is larger than this platform accepts. `Tus-Max-Size` of an OPTIONS request tells the limit, which the operator sets with --upload-max-bytes."}
	SizeExceeded = Kind{"upload-length-exceeded", http.StatusRequestEntityTooLarge, "More bytes than declared",
		"The request would take the upload past its declared Upload-Length."}
	Empty = Kind{"empty", http.StatusUnprocessableEntity, "File is empty",
		"The file has no bytes. Check that it was exported or copied completely, and upload it as a new asset."}
	KeyReused = Kind{"idempotency-key-reused", http.StatusUnprocessableEntity, "Idempotency-Key was used for another request",
		"The same Idempotency-Key came before with other values. Use a new key for a new request."}
	WrongState = Kind{"wrong-state", http.StatusConflict, "Not possible in this state",
		"What the request asks for isn't possible in the state the asset or upload is in."}
	Offset = Kind{"offset-mismatch", http.StatusConflict, "Upload stands at another offset",
		"Upload-Offset isn't where the upload stands. Ask with HEAD and go on from there."}
	Locked = Kind{"upload-locked", http.StatusLocked, "Upload is busy",
		"Another request is writing to the upload and is being ended. Try again in a moment."}
	Interrupted = Kind{"upload-interrupted", http.StatusConflict, "Another request took over the upload",
		"A newer request for the same upload ended this one; what had arrived is kept. Ask with HEAD and go on from there."}
	Incomplete = Kind{"body-incomplete", http.StatusBadRequest, "Request body ended early",
		"The connection brought fewer bytes than announced; what had arrived is kept. Ask with HEAD and go on from there."}
	TusVersion = Kind{"tus-version", http.StatusPreconditionFailed, "Unsupported tus version",
		"Send `Tus-Resumable: 1.0.0`."}
	WrongRegion = Kind{"wrong-region", http.StatusMisdirectedRequest, "Asset is pinned to other regions",
		"The asset's bytes may not leave its regions. Send the upload to the URL that `Location`, or creating the upload, names."}
	TooManyUploads = Kind{"too-many-uploads", http.StatusServiceUnavailable, "Too many uploads at once",
		"This region is receiving as many uploads as it takes. Wait as long as `Retry-After` says."}
	TooManyStreams = Kind{"too-many-streams", http.StatusServiceUnavailable, "Too many event streams",
		"This region serves as many event streams as it takes. Wait as long as `Retry-After` says, or poll the asset."}
	Storage = Kind{"storage-unavailable", http.StatusServiceUnavailable, "Storage is unavailable",
		"Fewer regions than needed could store the bytes, so nothing was acknowledged. Wait as long as `Retry-After` says and go on where the upload stands."}
	Unavailable = Kind{"unavailable", http.StatusServiceUnavailable, "Service is unavailable",
		"The database has no leader right now, or the region is starting or stopping. Wait as long as `Retry-After` says and repeat the request."}
	Internal = Kind{"internal", http.StatusInternalServerError, "Internal error",
		"A defect or an outage on the platform's side. Repeat the request; if it stays, give the operator the request id."}
)

// Kinds lists every kind, by code.
func Kinds() []Kind {
	out := []Kind{Unauthorized, Forbidden, NotFound, Gone, MethodNotAllowed, BadRequest, InvalidField, MediaType, BodyTooLarge, UploadTooLarge,
		SizeExceeded, Empty, KeyReused, WrongState, Offset, Locked, Interrupted, Incomplete, TusVersion, WrongRegion, TooManyUploads,
		TooManyStreams, Storage, Unavailable, Internal}
	slices.SortFunc(out, func(a, b Kind) int {
		if a.Code < b.Code {
			return -1
		}
		return 1
	})
	return out
}
