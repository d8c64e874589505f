// SPDX-License-Identifier: Apache-2.0

/** One thing in an initramfs. */
export type CpioEntry =
  | { path: string; type: 'file'; mode: number; content: Uint8Array }
  | { path: string; type: 'directory' }
  | { path: string; type: 'symlink'; target: string }
  | { path: string; type: 'character-device'; mode: number; major: number; minor: number }

const S_IFDIR = 0o040000
const S_IFCHR = 0o020000
const S_IFREG = 0o100000
const S_IFLNK = 0o120000
const NOTHING = new Uint8Array()

interface Header {
  mode: number
  major?: number
  minor?: number
}

/**
 * Writes a cpio archive in the "newc" format that the kernel unpacks (Documentation/driver-api/early-userspace/
 * buffer-format.rst). Needs no root for device nodes, and the same entries always give the same bytes: sorted by path,
 * owned by root, dated 1970. Folders that are not listed are made.
 */
export function writeCpio(entries: readonly CpioEntry[]): Uint8Array {
  const all = new Map<string, CpioEntry>()
  for (const entry of entries) {
    for (const folder of parents(entry.path)) if (!all.has(folder)) all.set(folder, { path: folder, type: 'directory' })
    all.set(entry.path, entry)
  }
  const sorted = [...all.values()].sort((a, b) => (a.path < b.path ? -1 : 1))
  const records = sorted.map((entry, index) => record(index + 1, entry.path, ...headerAndContent(entry)))
  return Buffer.concat([...records, record(0, 'TRAILER!!!', { mode: 0 }, NOTHING)])
}

function headerAndContent(entry: CpioEntry): [Header, Uint8Array] {
  switch (entry.type) {
    case 'file':
      return [{ mode: S_IFREG | entry.mode }, entry.content]
    case 'directory':
      return [{ mode: S_IFDIR | 0o755 }, NOTHING]
    case 'symlink':
      return [{ mode: S_IFLNK | 0o777 }, Buffer.from(entry.target)]
    case 'character-device':
      return [{ mode: S_IFCHR | entry.mode, major: entry.major, minor: entry.minor }, NOTHING]
  }
}

function record(inode: number, path: string, { mode, major = 0, minor = 0 }: Header, content: Uint8Array): Uint8Array {
  const name = Buffer.from(`${path}\0`)
  const links = 1
  const fields = [inode, mode, 0, 0, links, 0, content.length, 0, 0, major, minor, name.length, 0]
  const header = `070701${fields.map(field => field.toString(16).padStart(8, '0')).join('')}`
  return Buffer.concat([pad(Buffer.concat([Buffer.from(header), name])), pad(content)])
}

/** Header with name, and content, each end on a multiple of four. */
function pad(bytes: Uint8Array): Uint8Array {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)])
}

/** `a/b/c` lies in `a` and `a/b`. */
function parents(path: string): string[] {
  const parts = path.split('/').slice(0, -1)
  return parts.map((_, depth) => parts.slice(0, depth + 1).join('/'))
}
