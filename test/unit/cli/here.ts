// SPDX-License-Identifier: Apache-2.0
/** The command line in this process: what it prints, and its exit code. */
import { vi } from 'vitest'
import { commandLine } from '../../../server/cli/program.ts'

export async function cosimHere(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  let out = ''
  let err = ''
  const log = vi.spyOn(console, 'log').mockImplementation(text => {
    out += `${text}\n`
  })
  const error = vi.spyOn(console, 'error').mockImplementation(text => {
    err += `${text}\n`
  })
  const program = commandLine(code => {
    throw new Error(`ended with ${code}`)
  })
  process.exitCode = undefined
  try {
    await program.parseAsync(args, { from: 'user' })
    return { code: Number(process.exitCode ?? 0), out, err }
  } finally {
    log.mockRestore()
    error.mockRestore()
    process.exitCode = undefined
  }
}
