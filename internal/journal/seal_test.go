package journal

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func sealKey(t testing.TB, secret string) SealKey {
	t.Helper()
	k, err := NewSealKey(secret)
	require.NoError(t, err)
	return k
}

func TestSeal(t *testing.T) {
	_, err := NewSealKey(strings.Repeat("x", MinSealSecret-1))
	require.ErrorContains(t, err, "at least 32")
	k := sealKey(t, strings.Repeat("x", MinSealSecret))
	require.NotContains(t, fmt.Sprintf("%v %+v %s", k, k, k), "aead")
	b, err := k.seal("a/1", []byte("plain"))
	require.NoError(t, err)
	again, err := k.seal("a/1", []byte("plain"))
	require.NoError(t, err)
	require.NotEqual(t, b, again, "nonces are random")
	plain, err := k.open("a/1", b)
	require.NoError(t, err)
	require.Equal(t, "plain", string(plain))
	_, err = k.open("a/2", b)
	require.ErrorIs(t, err, ErrSealed)
	_, err = sealKey(t, strings.Repeat("y", MinSealSecret)).open("a/1", b)
	require.ErrorIs(t, err, ErrSealed)
}

// Nothing opens but what was sealed.
func FuzzOpen(f *testing.F) {
	k := sealKey(f, strings.Repeat("x", MinSealSecret))
	b, err := k.seal("a/1", []byte("plain"))
	require.NoError(f, err)
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte(`{"v":1,"sealed":""}`))
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		plain, err := k.open("a/1", in)
		if err != nil {
			require.ErrorIs(t, err, ErrSealed)
			return
		}
		require.Equal(t, "plain", string(plain))
	})
}
