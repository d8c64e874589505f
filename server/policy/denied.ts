// SPDX-License-Identifier: Apache-2.0

/** An error in words. Of what Node's permission model denies (server/cli/confine.ts) Node's own do not say which file it was. */
export function inWords(error: Error): string {
  const { code, permission, resource } = error as NodeJS.ErrnoException & { permission?: string; resource?: string }
  if (code !== 'ERR_ACCESS_DENIED') return error.message
  const what = permission === 'FileSystemWrite' ? 'write' : 'read'
  return `${resource}: a confined server may not ${what} it; --no-sandbox lets it`
}
