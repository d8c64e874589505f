// SPDX-License-Identifier: Apache-2.0
/** Kernels by their hash, from a folder that others write to, and from a server that may answer anything. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { sourceIdentity } from '../../../server/fleet/identity.ts'
import { type ImageLimits, Images, parseSource, publishImage } from '../../../server/fleet/images.ts'
import { Own } from '../../../server/fleet/own.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'

const root = privateFolder(tmpdir(), 'images-')
const servers: Server[] = []
afterAll(() => {
  for (const server of servers) server.close().closeAllConnections()
  rmSync(root, { recursive: true })
})

const signal = new AbortController().signal
const sum = (bytes: string | Buffer) => createHash('sha256').update(bytes).digest('hex')
const BYTES = Buffer.from('an image, as far as its hash goes')
const SHA = sum(BYTES)
const LIMITS: ImageLimits = { most: 1000, kept: 10_000 }

let shared: string
let kept: string
beforeEach(() => {
  shared = mkdtempSync(join(root, 'shared-'))
  kept = mkdtempSync(join(root, 'kept-'))
  mkdirSync(join(shared, 'sha256'))
})

/** Processes that were called with a word. */
const running = (word: string): string[] =>
  readdirSync('/proc').filter(pid => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(word)
    } catch {
      return false // It has ended meanwhile.
    }
  })

const put = (bytes: string | Buffer, name = sum(bytes)) => writeFileSync(join(shared, 'sha256', name), bytes)
const images = (limits: ImageLimits = {}) => new Images({ folder: shared }, { ...LIMITS, ...limits }, kept)
/** Of a server, which answers every request so. */
async function served(answer: RequestListener, limits: ImageLimits = {}): Promise<Images> {
  const server = createServer(answer).listen(0, '127.0.0.1')
  servers.push(server)
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return new Images(parseSource(`http://127.0.0.1:${port}/kernels`), { ...LIMITS, ...limits }, kept)
}

describe('a folder', () => {
  test('has what was put there, which is copied once and looked at each time', async () => {
    const made = join(shared, 'Image')
    writeFileSync(made, BYTES)
    await publishImage(made, shared, signal)
    await publishImage(made, shared, signal)
    expect(readdirSync(join(shared, 'sha256'))).toEqual([SHA])
    const mine = images()
    const path = await mine.get(SHA, signal)
    expect([path, readFileSync(path)]).toEqual([join(kept, SHA), BYTES])
    rmSync(join(shared, 'sha256', SHA))
    expect(await mine.get(SHA, signal)).toBe(path)
    // What changed in the cache is no image any more.
    writeFileSync(path, 'something else')
    await expect(mine.get(SHA, signal)).rejects.toThrow(`${SHA} is not there`)
    await publishImage(made, shared, signal)
    expect(readFileSync(await mine.get(SHA, signal))).toEqual(BYTES)
  })

  test('what is published can be read by others, whatever the umask', async () => {
    const made = join(shared, 'Image')
    writeFileSync(made, BYTES)
    const mode = (path: string) => statSync(path).mode & 0o777
    const at = mkdtempSync(join(root, 'published-'))
    const before = process.umask(0o077)
    try {
      await publishImage(made, at, signal)
      expect([mode(join(at, 'sha256')), mode(join(at, 'sha256', SHA))]).toEqual([0o755, 0o644])
      // What was published without a mode of its own is published again; a folder's mode is whose it is.
      chmodSync(join(at, 'sha256', SHA), 0o600)
      chmodSync(join(at, 'sha256'), 0o700)
      await publishImage(made, at, signal)
      expect([mode(join(at, 'sha256')), mode(join(at, 'sha256', SHA))]).toEqual([0o700, 0o644])
    } finally {
      process.umask(before)
    }
  })

  test('what is published replaces what is damaged there', async () => {
    put('damaged', SHA)
    const made = join(shared, 'Image')
    writeFileSync(made, BYTES)
    await publishImage(made, shared, signal)
    expect(readFileSync(join(shared, 'sha256', SHA))).toEqual(BYTES)
  })

  test.each([
    ['a pipe', (to: string) => execFileSync('mkfifo', [to])],
    ['what has no end', (to: string) => symlinkSync('/dev/zero', to)],
    ['a link to the same bytes', (to: string) => symlinkSync(join(shared, 'Image'), to)],
  ])('%s in the place of what is published is replaced: no worker would take it', async (_, place) => {
    const made = join(shared, 'Image')
    writeFileSync(made, BYTES)
    place(join(shared, 'sha256', SHA))
    await publishImage(made, shared, signal)
    expect(readFileSync(await images().get(SHA, signal))).toEqual(BYTES)
    expect(readdirSync(join(shared, 'sha256'))).toEqual([SHA])
  })

  test('publishing ends with its signal, and leaves nothing', async () => {
    const made = join(shared, 'Image')
    writeFileSync(made, BYTES)
    await expect(publishImage(made, shared, AbortSignal.abort(new Error('given up')))).rejects.toThrow(/^given up$/)
    expect(readdirSync(join(shared, 'sha256'))).toEqual([])
  })

  test('publishing that a file system holds up ends with its signal, and so does its process', async () => {
    const pipe = join(root, 'nobody writes to it')
    execFileSync('mkfifo', [pipe])
    const gone = new AbortController()
    const published = publishImage(pipe, shared, gone.signal)
    published.catch(() => {})
    await expect.poll(() => running(shared)).toHaveLength(1)
    gone.abort(new Error('given up'))
    await expect(published).rejects.toThrow(/^given up$/)
    await expect.poll(() => running(shared)).toEqual([])
    expect(readdirSync(join(shared, 'sha256'))).toEqual([])
  })

  test.each([
    ['is too short', () => put(BYTES.subarray(1), SHA), `hash ${sum(BYTES.subarray(1))}`],
    ['has other bytes', () => put('x'.repeat(BYTES.length), SHA), `hash ${sum('x'.repeat(BYTES.length))}`],
    ['has bytes more', () => put(`${BYTES}x`, SHA), `hash ${sum(`${BYTES}x`)}`],
    ['is longer than any', () => put(Buffer.alloc(1001), SHA), `${SHA} is longer than 1000 bytes`],
    ['is a link', () => symlinkSync('/etc/passwd', join(shared, 'sha256', SHA)), `${SHA} is a symbolic link`],
    ['is a folder', () => mkdirSync(join(shared, 'sha256', SHA)), `${SHA} is not a regular file`],
    ['has no end', () => symlinkSync('/dev/zero', join(shared, 'sha256', SHA)), `${SHA} is a symbolic link`],
    ['is a pipe', () => execFileSync('mkfifo', [join(shared, 'sha256', SHA)]), `${SHA} is not a regular file`],
    ['is not there', () => {}, `${SHA} is not there`],
  ])('what %s is not taken, and nothing of it stays', async (_, put, why) => {
    put()
    await expect(images().get(SHA, signal)).rejects.toThrow(`${shared}/sha256: `)
    await expect(images().get(SHA, signal)).rejects.toThrow(why)
    expect(readdirSync(kept)).toEqual([])
  })

  test.each([
    ['nothing', ''],
    ['a beginning, and nothing more', 'an image'],
  ])(
    'of whose file system comes %s: the error names the file and the limit, and its reader is killed',
    async (_, bytes) => {
      put(bytes, SHA)
      const reader = fileURLToPath(new URL('./slowReader.ts', import.meta.url))
      await expect(images({ idleMs: 2_000, reader }).get(SHA, signal)).rejects.toThrow(
        `${shared}/sha256: ${SHA}: nothing came for 2 s`,
      )
      expect(readdirSync(kept)).toEqual([])
      await expect.poll(() => running(shared)).toEqual([])
    },
  )

  test('that hangs is waited for as long as who asks for it wants', async () => {
    put('', SHA)
    const reader = fileURLToPath(new URL('./slowReader.ts', import.meta.url))
    const gone = new AbortController()
    const asked = images({ reader }).get(SHA, gone.signal)
    asked.catch(() => {})
    await expect.poll(() => running(shared)).toHaveLength(1)
    gone.abort(new Error('given up'))
    await expect(asked).rejects.toThrow(/^given up$/)
    await expect.poll(() => running(shared)).toEqual([])
  })

  test('a name that is no hash is not looked for', async () => {
    await expect(images().get('../../etc/passwd', signal)).rejects.toThrow('../../etc/passwd is no SHA-256')
  })

  test('two that want the same at the same time get it, whatever becomes of the first', async () => {
    put(BYTES)
    const gone = new AbortController()
    const mine = images()
    const first = mine.get(SHA, gone.signal)
    const second = mine.get(SHA, signal)
    gone.abort(new Error('given up'))
    await first.catch(() => {})
    expect(readFileSync(await second)).toEqual(BYTES)
  })
})

describe('what is kept', () => {
  const old = (name: string, hours: number) => {
    const then = Date.now() / 1000 - hours * 3600
    utimesSync(join(kept, name), then, then)
  }

  test('makes room for others when nobody has used it for an hour, the oldest first', async () => {
    const limits = { kept: 1000 + 2 * BYTES.length }
    const all = ['a', 'b', 'c', 'd'].map(name => Buffer.from(name.repeat(BYTES.length)))
    for (const bytes of all) put(bytes)
    const [a = '', b = '', c = '', d = ''] = all.map(sum)
    const have = () => readdirSync(kept).sort()
    for (const name of [a, b]) await images(limits).get(name, signal)
    old(a, 3)
    old(b, 2)
    writeFileSync(join(kept, '.half'), 'never finished')
    old('.half', 2)
    await images(limits).get(c, signal)
    expect(have()).toEqual([b, c].sort())
    await images(limits).get(d, signal)
    expect(have()).toEqual([b, c, d].sort())
    await images(limits).get(a, signal)
    expect(have()).toEqual([a, c, d].sort())
  })

  test('is not removed for others while it may be in use', async () => {
    put(BYTES)
    put('another')
    const limits = { kept: 1000 + BYTES.length - 1 }
    await images(limits).get(SHA, signal)
    await expect(images(limits).get(sum('another'), signal)).rejects.toThrow(
      `${kept} is full: ${BYTES.length} bytes of it were used within the last hour, up to 1000 are coming`,
    )
    expect(readdirSync(kept)).toEqual([SHA])
  })

  test('has room for all that is copied at the same time', async () => {
    const mine = await served(() => {}, { kept: 2999, idleMs: 300 })
    const all = await Promise.allSettled(['a', 'b', 'c'].map(bytes => mine.get(sum(bytes), signal)))
    const why = all.map(result => (result.status === 'rejected' ? `${result.reason}` : ''))
    expect(why.filter(text => text.includes('is full: 0 bytes'))).not.toEqual([])
  })
})

describe('a server', () => {
  test('is asked for the hash, below its path', async () => {
    const asked: unknown[] = []
    const mine = await served(({ url, method }, response) => {
      asked.push([method, url])
      response.end(BYTES)
    })
    expect(readFileSync(await mine.get(SHA, signal))).toEqual(BYTES)
    expect(asked).toEqual([['GET', `/kernels/sha256/${SHA}`]])
  })

  test.each<[string, RequestListener, string, ImageLimits?]>([
    ['has nothing', (_, response) => response.writeHead(404).end('no'), `HTTP 404 for ${SHA}`],
    [
      'sends one elsewhere',
      (_, response) => response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end(),
      `HTTP 302 for ${SHA}`,
    ],
    ['answers something else', (_, response) => response.end('hello'), `hash ${sum('hello')}`],
    [
      'sends less than it said',
      (_, response) => {
        response.writeHead(200, { 'content-length': BYTES.length + 1 }).write(BYTES)
        setTimeout(() => response.destroy(), 20)
      },
      '',
    ],
    [
      'packs a page that is longer than any',
      (_, response) => response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(Buffer.alloc(1 << 24))),
      'longer than 1000 bytes',
    ],
    [
      'has no end',
      (_, response) => {
        const timer = setInterval(() => response.write(Buffer.alloc(100)), 5)
        response.once('close', () => clearInterval(timer))
      },
      'longer than 1000 bytes',
    ],
    ['says nothing', () => {}, 'nothing came for 0.3 s', { idleMs: 300 }],
    [
      'begins, and says nothing more',
      (_, response) => void response.write(BYTES),
      'nothing came for 0.3 s',
      { idleMs: 300 },
    ],
    [
      'is slow, for ever',
      (_, response) => {
        const timer = setInterval(() => response.write('.'), 100)
        response.once('close', () => clearInterval(timer))
      },
      'it takes longer than 1 s',
      { totalMs: 1_000 },
    ],
  ])('that %s: refused, and nothing of it stays', async (_, answer, why, limits) => {
    const mine = await served(answer, limits)
    await expect(mine.get(SHA, signal)).rejects.toThrow(why)
    expect(readdirSync(kept)).toEqual([])
  })

  test('that is not there: said so', async () => {
    const mine = new Images(parseSource('http://127.0.0.1:1/'), LIMITS, kept)
    await expect(mine.get(SHA, signal)).rejects.toThrow(/^http:\/\/127\.0\.0\.1:1\/sha256\/: .*(ECONNREFUSED|bad port)/)
  })
})

test('where it may be: a folder, or a URL without a password', () => {
  expect(parseSource('/srv/kernels')).toEqual({ folder: '/srv/kernels' })
  for (const [text, url] of [
    ['http://here', 'http://here/sha256/'],
    ['https://here:8443/a/b/', 'https://here:8443/a/b/sha256/'],
    ['http://here//elsewhere/x', 'http://here//elsewhere/x/sha256/'],
  ] as const)
    expect(parseSource(text)).toEqual({ url: new URL(url) })
  for (const text of ['ftp://here', 'file:///etc', 'http://me:secret@here/', 'http://here/?x=', 'http://'])
    expect(() => parseSource(text), text).toThrow(/^expected a folder|^a password/)
})

describe('a worker', () => {
  const machine = { jobs: 1, kernels: [], qemuArgs: [], ramDir: 'memory', transport: 'auto', sandbox: true } as const
  const work = { do: 'session', kernel: '/home/me/Image', until: 'nested', seed: 1 } as const
  const entry = { name: 'x', summary: 'x', expect: [], why: 'x', rules: [] }
  const answer = async (hashes: { kernel: string; initrd?: string }) => {
    const identity = { source: await sourceIdentity(), qemu: 'b'.repeat(20), ...hashes }
    const own = new Own({ ...machine, kernelsFrom: { folder: shared } }, signal)
    return own.answer({ identity, work: { ...work, entry } }, signal)
  }
  const job = `kernel: the job is of ${SHA} (/home/me/Image), --kernel of this worker is none`

  test('looks for no kernel whose modules it could not have', async () => {
    put(BYTES)
    expect(await answer({ kernel: SHA })).toEqual({
      refused: `${job}; --kernels-from is of use when the sender has --publish`,
    })
  })

  test('tells both hashes of what is there instead', async () => {
    await expect(answer({ kernel: SHA, initrd: 'd'.repeat(64) })).rejects.toThrow(
      `initramfs: the job is of ${'d'.repeat(64)}, this worker has none; --kernels-from ${shared}/sha256: ${'d'.repeat(64)} is not there`,
    )
  })
})
