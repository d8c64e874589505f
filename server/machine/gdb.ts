// SPDX-License-Identifier: Apache-2.0
/** gdb on the guest: QEMU's gdbstub, and what to type. Whoever reaches it owns the guest: it is never on a network. */
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'

const LOOPBACK = '127.0.0.1'

/** Where gdb can attach. */
export interface GdbServer {
  /** A character device, for QEMU. */
  readonly device: string
  /** For gdb's `target remote`. */
  readonly target: string
}

/**
 * @param folder where a socket may be that only its user can reach
 * @param port of the loopback interface, which any user of this machine can reach; absent: a Unix socket
 */
export function gdbServer(folder: string, port?: number): GdbServer {
  if (port !== undefined) return { device: `tcp:${LOOPBACK}:${port}`, target: `${LOOPBACK}:${port}` }
  const path = join(folder, 'gdb')
  return { device: `unix:${path.replaceAll(',', ',,')},server=on,wait=off`, target: path }
}

/**
 * A QEMU that cannot listen ends, after it has connected to its server: so this is asked before one is started.
 * @param port of the loopback interface
 * @throws Error naming `option` when somebody else listens there
 */
export async function expectFree(port: number, option: string): Promise<void> {
  const server = createServer().listen(port, LOOPBACK)
  try {
    await once(server, 'listening')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new Error(code === 'EADDRINUSE' ? `${LOOPBACK}:${port} is in use: choose another ${option}` : message)
  } finally {
    server.close()
  }
}

/** What gdb reads names from. */
export interface GdbSymbols {
  readonly file: string
  /** Distance of the running kernel from the addresses in the file, bytes. */
  readonly offset: bigint
}

/** The line to type. @param symbols absent: it is not known where the kernel is */
export function gdbCommand(target: string, symbols?: GdbSymbols): string {
  const offset =
    symbols === undefined || symbols.offset === 0n ? '' : `-o 0x${BigInt.asUintN(64, symbols.offset).toString(16)} `
  const commands = [...(symbols ? [`symbol-file ${offset}${wordOfGdb(symbols.file)}`] : []), `target remote ${target}`]
  return ['gdb-multiarch', ...commands.map(command => `-ex ${quoted(command)}`)].join(' ')
}

/** As one word of a shell. */
const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`

/** gdb takes words of a command apart as a shell does, but for the address of `target remote`. */
const wordOfGdb = (text: string): string => text.replaceAll(/[\s'"\\]/g, '\\$&')
