// SPDX-License-Identifier: Apache-2.0
/** Watches the files that the trap thread's code is loaded from, and replaces the code when one is saved. */
import { createHash } from 'node:crypto'
import { type FSWatcher, readFileSync, statSync, watch } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Swap, TrapThread } from './trapThread.ts'
import { TypeCheck } from './typeCheck.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** Editors save in several steps. */
const SETTLE_MS = 15

const isSource = (name: string): boolean => /\.[cm]?[jt]s$/.test(name) && !name.endsWith('.d.ts')

export interface LiveCodeOptions {
  /** Whose code is replaced; undefined while there is none, and when the machine has no server of its own. */
  readonly thread: () => Pick<TrapThread, 'modules' | 'swap' | 'parked'> | undefined
  /** The policy as the thread was given it; a file is looked at for type errors, too. */
  readonly policy: string
  readonly say: (line: string) => void
  /** The new code was not taken. */
  readonly refused?: (reason: string) => void
  /** Whether type errors are told, after the code was replaced; default true. */
  readonly types?: boolean
}

export class LiveCode {
  readonly #options: LiveCodeOptions
  /** By folder. */
  readonly #watchers = new Map<string, FSWatcher>()
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
    this.#follow()
  }

  /** Watches what the thread is made of by now. */
  #follow(): void {
    for (const file of this.#options.thread()?.modules ?? []) {
      if (!this.#digests.has(file)) this.#isNew(file)
      this.#watch(dirname(file))
    }
  }

  /** Folder by folder: many editors put a new file in the old one's place, which a watch on the file would lose. */
  #watch(folder: string): void {
    if (this.#watchers.has(folder)) return
    try {
      const watcher = watch(folder, (_event, name) => {
        if (name !== null && isSource(name)) this.#touched(join(folder, name))
      })
      watcher.on('error', error => this.#options.say(`cannot watch ${folder}: ${error.message}`))
      this.#watchers.set(folder, watcher)
    } catch (error) {
      this.#options.say(`cannot watch ${folder}: ${(error as Error).message}`)
    }
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
    this.#types?.close()
    for (const watcher of this.#watchers.values()) watcher.close()
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
        const changed = [...this.#changed]
        this.#changed.clear()
        const thread = this.#options.thread()
        if (thread === undefined) continue
        const { modules } = thread
        const files = changed.filter(file => modules.has(file) && this.#isNew(file))
        if (files.length > 0) {
          await this.#swap(thread, files)
          this.#follow()
        }
        // Of what only types come from, nothing is loaded.
        if (files.length > 0 || changed.some(file => !modules.has(file))) this.#types?.check()
      }
    } finally {
      this.#busy = false
    }
  }

  async #swap(thread: Pick<TrapThread, 'swap' | 'parked'>, files: readonly string[]): Promise<void> {
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
