package fleet

import "sync"

// kept is a list of bounded length. Its methods may be called concurrently.
type kept[T any] struct {
	mu      sync.Mutex
	list    []T
	dropped int
}

// add keeps x unless there are as many as most.
func (k *kept[T]) add(x T, most int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.list) >= most {
		k.dropped++
		return
	}
	k.list = append(k.list, x)
}

// all so far; the slice isn't changed any more.
func (k *kept[T]) all() []T {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.list[:len(k.list):len(k.list)]
}

// lost is how many had no room.
func (k *kept[T]) lost() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dropped
}
