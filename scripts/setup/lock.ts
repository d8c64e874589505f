// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, rm } from 'node:fs/promises'
import { cacheDir, cachePath } from './cache.ts'
import type { SetupOptions } from './options.ts'
import { Progress } from './progress.ts'
import { SetupError } from './run.ts'

/** What a step of set-up works with. */
export interface Context {
  progress: Progress
  signal: AbortSignal | undefined
  /** A folder on the cache's file system, empty at first, removed afterwards. */
  scratch: string
}

/** Runs `work` while no other process changes the cache. */
export async function exclusively<T>(options: SetupOptions, work: (context: Context) => Promise<T>): Promise<T> {
  const { signal } = options
  signal?.throwIfAborted()
  const progress = new Progress(options.progress)
  const scratch = cachePath('tmp')
  try {
    await mkdir(cacheDir, { recursive: true })
    const unlock = await lock(cachePath('lock'), signal, () => progress.note('waiting for another set-up to finish'))
    try {
      await rm(scratch, { recursive: true, force: true })
      await mkdir(scratch)
      return await work({ progress, signal, scratch })
    } finally {
      await rm(scratch, { recursive: true, force: true })
      unlock()
    }
  } catch (error) {
    throw plain(error)
  }
}

/**
 * Takes a lock that the kernel holds for as long as the `flock` child lives, and that ends with us however we end:
 * there is no such thing as a stale lock.
 */
export async function lock(file: string, signal: AbortSignal | undefined, onWait: () => void): Promise<() => void> {
  const holder = spawn('flock', ['--no-fork', file, 'sh', '-c', 'echo locked; exec cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    // Ctrl-C must not release the lock before what it protects has come to an end.
    detached: true,
  })
  const waiting = setTimeout(onWait, 500)
  try {
    const locked = once(holder.stdout, 'data', { signal })
    const failed = once(holder, 'close').then(() => Promise.reject(new SetupError(`cannot lock ${file}`)))
    failed.catch(() => {}) // also comes, unasked for, when the lock is released
    await Promise.race([locked, failed])
    return () => holder.kill()
  } catch (error) {
    holder.kill()
    throw error
  } finally {
    clearTimeout(waiting)
  }
}

/** A full disk or a forbidden folder is the user's to mend, not a fault in set-up. */
function plain(error: unknown): unknown {
  const { code, path } = error as NodeJS.ErrnoException
  if (code === 'ENOSPC') return new SetupError(`the disk is full: ${path ?? cacheDir}`)
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS')
    return new SetupError(`cannot write ${path ?? cacheDir}`)
  return error
}
