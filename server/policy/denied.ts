// SPDX-License-Identifier: Apache-2.0

/**
 * An error in words: one of the file system begins with the file. Of what Node's permission model denies (server/cli/confine.ts)
 * Node's own do not say which file it was.
 */
export function inWords(error: Error): string {
  const { code, permission, resource, path } = error as NodeJS.ErrnoException & {
    permission?: string
    resource?: string
  }
  if (code !== 'ERR_ACCESS_DENIED') {
    const [, what] = (path !== undefined && /^[A-Z0-9]+: (.*), \w+ '/.exec(error.message)) || []
    return what === undefined ? error.message : `${path}: ${what} (${code})`
  }
  const what = permission === 'FileSystemWrite' ? 'write' : 'read'
  return `${resource}: a confined server may not ${what} it; --no-sandbox lets it`
}
