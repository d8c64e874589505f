// SPDX-License-Identifier: Apache-2.0
/** Long text for a person: through the pager of the terminal, as git does it. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import type { Writable } from 'node:stream'
import { isTerminal } from './terminal.ts'

export interface Pager {
  readonly input: Writable
  /** After the input was ended: until the person has seen enough. */
  ended(): Promise<void>
}

/** A shell command, from PAGER; less where nothing is said; undefined: none is wanted, or there is none. */
function pagerCommand({ PAGER, PATH = '' }: NodeJS.ProcessEnv): string | undefined {
  if (PAGER !== undefined) return PAGER.trim() === '' || PAGER.trim() === 'cat' ? undefined : PAGER
  const found = PATH.split(delimiter).some(folder => {
    try {
      accessSync(join(folder, 'less'), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
  return found ? 'less' : undefined
}

/** @returns undefined where nobody looks at a terminal, or wants no pager */
export function openPager(): Pager | undefined {
  const command = isTerminal() ? pagerCommand(process.env) : undefined
  if (command === undefined) return undefined
  // F: ends by itself when all fits; R: shows colours; X: leaves the text standing.
  const child = spawn('sh', ['-c', command], {
    stdio: ['pipe', 'inherit', 'inherit'],
    env: { LESS: 'FRX', ...process.env },
  })
  const ended = once(child, 'close')
  // The key goes to both, and the pager decides what it means.
  const ignore = () => {}
  process.on('SIGINT', ignore)
  return {
    input: child.stdin,
    async ended() {
      child.stdin.end()
      await ended
      process.off('SIGINT', ignore)
    },
  }
}
