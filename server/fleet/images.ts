// SPDX-License-Identifier: Apache-2.0
/**
 * Kernels and initramfs by the hash of their content: `sha256/HEX` in a folder, or on a web server that serves such a folder. Senders put them
 * there; a worker looks only where its own command line says, for a hash, and takes nothing but bytes that have it.
 */
import { spawn } from 'node:child_process'
import { createHash, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { constants, createReadStream, type Stats } from 'node:fs'
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cachePath, digest } from '../../scripts/setup/cache.ts'
import { isSeries, machineFiles, type WantedFiles } from '../run/files.ts'
import { fromFolder } from './folderImage.ts'
import { QUEUE_PASSWORD } from './queue.ts'

/** Of one file, bytes. */
export const MOST_IMAGE = 512 << 20
/** Of all that a worker keeps, bytes. */
const MOST_KEPT = 8 * 2 ** 30
/** What was used so lately is not removed for something else, ms. */
const IN_USE_MS = 3_600_000
/** A file that is used again is marked so after so long, ms. */
const MARK_MS = 600_000
/** Without a byte for so long, a source is given up, ms. */
const IDLE_MS = 30_000
/** And with bytes, ms. */
const TOTAL_MS = 600_000

const FOLDER = 'sha256'

/** Workers of other users read what is published, and web servers: also where the umask keeps others out. */
const FILE_MODE = 0o644
const FOLDER_MODE = 0o755

/** Where a worker looks. */
export type ImageSource = { readonly folder: string } | { readonly url: URL }

/** A folder, or `http(s)://HOST[:PORT][/PATH]`. @throws Error for other URLs, and for a password: whoever may list processes would read it */
export function parseSource(text: string): ImageSource {
  if (!/^[a-z][a-z0-9+.-]*:\/\//i.test(text)) return { folder: resolve(text) }
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.search !== '' || url.hash !== '')
    throw new Error('expected a folder, or http://HOST[:PORT][/PATH], or https://…')
  if (url.username !== '' || url.password !== '')
    throw new Error('a password in the URL is seen by whoever may list processes')
  // Not resolved against the URL: a path that begins with // would name another host.
  url.pathname = `${url.pathname.replace(/\/*$/, '/')}${FOLDER}/`
  return { url }
}

/** Reads a file of a folder. */
const READER = fileURLToPath(new URL('./readImage.ts', import.meta.url))
/** Calls `putImage`. */
const PUBLISHER = fileURLToPath(new URL('./publishImage.ts', import.meta.url))
/** Such a process has so long to remove what it has begun, ms. */
const REMOVE_MS = 1_000

/** Bounds that tests choose, and who reads a folder. */
export interface ImageLimits {
  readonly most?: number
  readonly kept?: number
  readonly idleMs?: number
  readonly totalMs?: number
  readonly reader?: string
}

/** What a worker has got from its source. */
export class Images {
  readonly #source: ImageSource
  readonly #folder: string
  readonly #limits: Required<ImageLimits>
  /** What is copied at the moment, by its hash. */
  readonly #copying = new Map<string, Promise<void>>()

  /** @param folder where it is kept */
  constructor(source: ImageSource, limits: ImageLimits = {}, folder = cachePath('fleet', FOLDER)) {
    this.#source = source
    this.#folder = folder
    this.#limits = {
      ...{ most: MOST_IMAGE, kept: MOST_KEPT, idleMs: IDLE_MS, totalMs: TOTAL_MS, reader: READER },
      ...limits,
    }
  }

  /** For people. */
  get where(): string {
    return 'url' in this.#source ? this.#source.url.href : join(this.#source.folder, FOLDER)
  }

  /**
   * The path of a file with that content.
   * @param sha256 hexadecimal
   * @throws Error saying what is there instead
   */
  async get(sha256: string, signal: AbortSignal): Promise<string> {
    if (!/^[0-9a-f]{64}$/.test(sha256)) throw new Error(`${sha256.slice(0, 100)} is no SHA-256`)
    const path = join(this.#folder, sha256)
    for (;;) {
      signal.throwIfAborted()
      if (await this.#have(path, sha256)) return path
      const copying = this.#copying.get(sha256)
      // One that is given up by somebody else is tried again by us.
      if (copying !== undefined) await copying.catch(() => {})
      else await this.#copy(path, sha256, signal)
    }
  }

  async #have(path: string, sha256: string): Promise<boolean> {
    if ((await digest(path).catch(() => '')) !== sha256) return false
    const now = Date.now()
    if ((await stat(path)).mtimeMs < now - MARK_MS) await utimes(path, now / 1000, now / 1000)
    return true
  }

  async #copy(path: string, sha256: string, signal: AbortSignal): Promise<void> {
    const copying = this.#fetch(path, sha256, signal)
    this.#copying.set(sha256, copying)
    try {
      await copying
    } finally {
      this.#copying.delete(sha256)
    }
  }

  async #fetch(path: string, sha256: string, signal: AbortSignal): Promise<void> {
    const { most, kept, idleMs, totalMs, reader } = this.#limits
    await mkdir(this.#folder, { recursive: true, mode: 0o700 })
    await makeRoom(this.#folder, kept, most * this.#copying.size)
    const late = new AbortController()
    const tooLate = (ms: number) => () => late.abort(new Error(`nothing came for ${ms / 1000} s`))
    let idle = setTimeout(tooLate(idleMs), idleMs)
    const total = setTimeout(() => late.abort(new Error(`it takes longer than ${totalMs / 1000} s`)), totalMs)
    const alive = () => {
      clearTimeout(idle)
      idle = setTimeout(tooLate(idleMs), idleMs)
    }
    const either = AbortSignal.any([signal, late.signal])
    try {
      const bytes =
        'url' in this.#source
          ? fromServer(this.#source.url, sha256, either)
          : fromProcess(reader, [this.where, sha256], either)
      await keep(bytes, path, sha256, most, either, alive)
    } catch (error) {
      signal.throwIfAborted()
      const { message } = plain(error)
      throw new Error(
        `${this.where}: ${late.signal.aborted ? `${sha256}: ${(late.signal.reason as Error).message}` : message}`,
      )
    } finally {
      clearTimeout(idle)
      clearTimeout(total)
    }
  }
}

/** What fetch() says hides what happened. */
function plain(error: unknown): Error {
  const { cause } = error as { cause?: unknown }
  return cause instanceof Error && cause.message !== '' ? cause : (error as Error)
}

async function* fromServer(url: URL, sha256: string, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  // Where else to look is not for the server to say; and what it packs is not unpacked for it.
  const headers = { 'accept-encoding': 'identity' }
  const response = await fetch(new URL(sha256, url), { redirect: 'manual', headers, signal })
  if (response.status !== 200 || response.body === null) {
    await response.body?.cancel()
    throw new Error(`HTTP ${response.status} for ${sha256}`)
  }
  yield* response.body
}

/**
 * What a process of its own writes: a file system that hangs, as of a server that has gone, holds up whoever asks it, and Node has four threads
 * for that. That process is killed, and not waited for.
 */
async function* fromProcess(
  program: string,
  words: readonly string[],
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  signal.throwIfAborted()
  // The queue's password is not for it to know.
  const { [QUEUE_PASSWORD]: _, ...env } = process.env
  const child = spawn(process.execPath, [program, ...words], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-1000)
  })
  const ended = once(child, 'close', { signal })
  ended.catch(() => {})
  const stop = () => child.stdout.destroy(signal.reason)
  signal.addEventListener('abort', stop, { once: true })
  try {
    yield* child.stdout
    const [code, name] = await ended
    if (code !== 0) throw new Error(said.trim() || `its process ended with ${name ?? `exit code ${code}`}`)
  } finally {
    signal.removeEventListener('abort', stop)
    if (child.exitCode === null && child.signalCode === null) {
      child.kill()
      const timer = setTimeout(() => child.kill('SIGKILL'), REMOVE_MS)
      child.once('exit', () => clearTimeout(timer))
    }
    child.stdout.destroy()
    child.stderr.destroy()
    child.unref()
  }
}

/**
 * Writes bytes to a file that has its name only when they are all there, and have that hash.
 * @param alive called when there are more
 * @throws Error when they have another one, or are too many
 */
async function keep(
  bytes: AsyncIterable<Uint8Array>,
  path: string,
  sha256: string,
  most: number,
  signal: AbortSignal,
  alive: () => void,
): Promise<void> {
  const made = join(path, '..', `.${randomUUID()}`)
  const file = await open(made, 'wx', FILE_MODE)
  try {
    await setMode(file, FILE_MODE)
    const hash = createHash('sha256')
    let length = 0
    for await (const chunk of bytes) {
      signal.throwIfAborted()
      alive()
      length += chunk.length
      if (length > most) throw new Error(`${sha256} is longer than ${most} bytes`)
      hash.update(chunk)
      await file.appendFile(chunk)
    }
    const found = hash.digest('hex')
    if (found !== sha256) throw new Error(`${length} bytes under the name ${sha256} have the hash ${found}`)
    await file.sync()
    await rename(made, path)
  } finally {
    await file.close()
    await rm(made, { force: true })
  }
}

/** Whatever the umask. What may not be set, or is not there, is up to the file system. */
async function setMode(file: FileHandle, mode: number): Promise<void> {
  await file.chmod(mode).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPERM' && error.code !== 'ENOTSUP') throw error
  })
}

/**
 * Makes the folder of what is published; one that is there keeps its mode. By its handle: others may put something else in its place.
 */
async function makeFolder(path: string): Promise<void> {
  if ((await mkdir(path, { recursive: true, mode: FOLDER_MODE })) === undefined) return
  const folder = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW)
  try {
    await setMode(folder, FOLDER_MODE)
  } finally {
    await folder.close()
  }
}

/**
 * Removes what was not used for the longest time, and what was never finished.
 * @param kept of the whole folder, bytes @param coming what is copied at the moment may have so many
 * @throws Error when all that is there is in use
 */
async function makeRoom(folder: string, kept: number, coming: number): Promise<void> {
  const most = kept - coming
  const now = Date.now()
  const found = await Promise.all(
    (await readdir(folder)).map(async name => {
      const path = join(folder, name)
      const { size = 0, mtimeMs = 0 } = (await stat(path).catch(() => undefined)) ?? {}
      return { path, size, mtimeMs, half: name.startsWith('.') }
    }),
  )
  let total = found.reduce((sum, { size }) => sum + size, 0)
  for (const { path, size, mtimeMs, half } of found.sort((a, b) => a.mtimeMs - b.mtimeMs)) {
    if (mtimeMs > now - IN_USE_MS) break
    if (total <= most && !half) continue
    await rm(path, { force: true })
    total -= size
  }
  if (total > most)
    throw new Error(
      `${folder} is full: ${total} bytes of it were used within the last hour, up to ${coming} are coming, of ${kept}`,
    )
}

/** Puts a file where workers look, in this process. */
export async function putImage(path: string, folder: string, signal: AbortSignal): Promise<void> {
  const sha256 = await digest(path)
  const where = join(folder, FOLDER)
  if (await isPublished(where, sha256, signal)) return
  await makeFolder(where)
  const bytes = createReadStream(path, { highWaterMark: 1 << 20 })
  await keep(bytes, join(where, sha256), sha256, MOST_IMAGE, signal, () => {})
}

/**
 * The same in a process of its own, which is given up with `signal`.
 * @param folder of `--publish`: others write to it
 * @throws Error when the file changes meanwhile, or is too long
 */
export async function publishImage(path: string, folder: string, signal: AbortSignal): Promise<void> {
  try {
    for await (const _ of fromProcess(PUBLISHER, [path, folder], signal)); // it says nothing
  } catch (error) {
    signal.throwIfAborted()
    throw new Error(`--publish ${folder}: ${path}: ${(error as Error).message}`)
  }
}

/** What this user has published before the modes were set is published anew. @throws Error */
function readable({ uid, mode }: Stats): void {
  if (uid === process.getuid?.() && (mode & FILE_MODE) !== FILE_MODE) throw new Error('others cannot read it')
}

/** Whether workers would take what is there: a link, a pipe, and what has no end are none of it. */
async function isPublished(where: string, sha256: string, signal: AbortSignal): Promise<boolean> {
  const hash = createHash('sha256')
  let length = 0
  try {
    for await (const chunk of fromFolder(where, sha256, readable)) {
      signal.throwIfAborted()
      length += chunk.length
      if (length > MOST_IMAGE) return false
      hash.update(chunk)
    }
  } catch {
    signal.throwIfAborted()
    return false
  }
  return hash.digest('hex') === sha256
}

/** Kernel and initramfs of a job, published: names of this machine. */
export interface Published {
  readonly kernel: string
  readonly initrd?: string
}

/**
 * Publishes what of a machine's files workers cannot make themselves: of a kernel of one's own the image, and the initramfs with its modules,
 * that is made here; of Debian's kernels nothing but an initramfs of one's own.
 */
export async function publishFiles(wanted: WantedFiles, folder: string, signal: AbortSignal): Promise<Published> {
  if (isSeries(wanted.kernel)) {
    if (wanted.initrd === undefined) return { kernel: wanted.kernel }
    await publishImage(wanted.initrd, folder, signal)
    return { kernel: wanted.kernel, initrd: wanted.initrd }
  }
  const { kernel, initrd } = await machineFiles(wanted, { signal })
  await publishImage(kernel.image, folder, signal)
  await publishImage(initrd, folder, signal)
  return { kernel: kernel.image, initrd }
}
