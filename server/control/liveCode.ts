// SPDX-License-Identifier: Apache-2.0
/** Watches the source files of the trap thread, and replaces its code when one is saved. */
import { createHash } from 'node:crypto'
import { existsSync, type FSWatcher, readdirSync, readFileSync, statSync, watch } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Swap, TrapThread } from './trapThread.ts'
import { TypeCheck } from './typeCheck.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** Folders whose modules the trap thread is made of. */
const FOLDERS = ['hypervisor', 'policy', 'smmu', 'trap', 'translate', 'faults', 'machine', 'trace']
  .map(name => `server/${name}`)
  .concat('protocol')

/** Editors save in several steps. */
const SETTLE_MS = 15

const isSource = (name: string): boolean => /\.[cm]?[jt]s$/.test(name) && !name.endsWith('.d.ts')

export interface LiveCodeOptions {
  /** The thread whose code is replaced; undefined while there is none. */
  readonly thread: () => TrapThread | undefined
  /** The policy as the thread was given it: of a file, the folder around it is watched as well. */
  readonly policy: string
  readonly say: (line: string) => void
  /** The new code was not taken. */
  readonly refused?: (reason: string) => void
  /** Whether type errors are told, after the code was replaced; default true. */
  readonly types?: boolean
}

export class LiveCode {
  readonly #options: LiveCodeOptions
  readonly #watchers: FSWatcher[] = []
  /** Content of each file as it was last loaded. */
  readonly #digests = new Map<string, string>()
  readonly #changed = new Set<string>()
  readonly #types: TypeCheck | undefined
  #timer: NodeJS.Timeout | undefined
  #busy = false
  #closed = false

  constructor(options: LiveCodeOptions) {
    this.#options = options
    if (options.types !== false) this.#types = new TypeCheck(options)
    for (const folder of FOLDERS) if (existsSync(join(ROOT, folder))) this.#watch(join(ROOT, folder), true)
    if (isSource(options.policy)) this.#watch(dirname(resolve(options.policy)), false)
  }

  /** Folder by folder: many editors put a new file in the old one's place, which a watch on the file would lose. */
  #watch(folder: string, deep: boolean): void {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name)
      if (entry.isDirectory() && deep) this.#watch(path, true)
      else if (entry.isFile() && isSource(entry.name)) this.#isNew(path)
    }
    const watcher = watch(folder, (_event, name) => {
      if (name !== null && isSource(name)) this.#touched(join(folder, name))
    })
    watcher.on('error', error => this.#options.say(`cannot watch ${folder}: ${error.message}`))
    this.#watchers.push(watcher)
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
    this.#types?.close()
    for (const watcher of this.#watchers) watcher.close()
  }

  /** Whether a file is not what it was when it was looked at last. */
  #isNew(file: string): boolean {
    let digest = ''
    try {
      digest = createHash('sha256').update(readFileSync(file)).digest('hex')
    } catch {} // removed, or between two steps of an editor
    const before = this.#digests.get(file)
    this.#digests.set(file, digest)
    return digest !== before
  }

  #touched(file: string): void {
    this.#changed.add(file)
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => void this.#reload(), SETTLE_MS)
  }

  async #reload(): Promise<void> {
    if (this.#busy) return
    this.#busy = true
    try {
      while (this.#changed.size > 0 && !this.#closed) {
        const files = [...this.#changed].filter(file => this.#isNew(file))
        this.#changed.clear()
        const thread = this.#options.thread()
        if (files.length === 0 || thread === undefined) continue
        await this.#swap(thread, files)
        this.#types?.check()
      }
    } finally {
      this.#busy = false
    }
  }

  async #swap(thread: TrapThread, files: readonly string[]): Promise<void> {
    const { say, refused } = this.#options
    const names = files.map(file => relative(ROOT, file)).join(', ')
    const saved = Math.max(...files.map(savedAt))
    let swap: Swap
    try {
      swap = await thread.swap()
    } catch (error) {
      if (this.#closed) return
      const reason = (error as Error).message
      say(`${names}: ${reason}`)
      say(thread.parked ? 'the machine waits at its trap: save a file that mends it' : 'the old code goes on')
      refused?.(reason)
      return
    }
    const ms = (value: number) => `${Math.round(value)} ms`
    say(`${names}: new code in place ${ms(now() - saved)} after saving; nobody answered for ${ms(swap.gapMs)}`)
    for (const repair of swap.repairs) say(`  ${repair}`)
    swap.firstTrap.then(
      at => say(`${names}: first trap decided by the new code ${ms(at - saved)} after saving`),
      () => {},
    )
  }
}

/** ms since the epoch, with the fractions that file times have. */
const now = (): number => performance.timeOrigin + performance.now()

function savedAt(file: string): number {
  try {
    return statSync(file).mtimeMs
  } catch {
    return now()
  }
}
