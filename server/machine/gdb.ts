// SPDX-License-Identifier: Apache-2.0
/** gdb on the guest: QEMU's gdbstub, and what to type. Whoever reaches it owns the guest: it is never on a network. */
import { join } from 'node:path'

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
  if (port !== undefined) return { device: `tcp:127.0.0.1:${port}`, target: `127.0.0.1:${port}` }
  const path = join(folder, 'gdb')
  return { device: `unix:${path.replaceAll(',', ',,')},server=on,wait=off`, target: path }
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
  const commands = [...(symbols ? [`symbol-file ${offset}${symbols.file}`] : []), `target remote ${target}`]
  return ['gdb-multiarch', ...commands.map(command => `-ex ${quoted(command)}`)].join(' ')
}

/** As one word of a shell. */
const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`
