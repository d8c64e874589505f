// SPDX-License-Identifier: Apache-2.0
/** Paths that the command line names are looked at while it is read: one that is not there costs no work, and no boot. */
import { accessSync, constants, existsSync, realpathSync, type Stats, statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import { isQemuVersion, QEMU_VERSIONS, treeVersion } from '../../scripts/setup/index.ts'
import { entryNamed, isFile } from '../faults/catalogue.ts'
import type { SharedFolder } from '../machine/qemu.ts'
import { LATEST, RECORDING, type Run, runNamed } from '../machine/runs.ts'
import { tryWhole } from '../machine/wholeFile.ts'
import { parseAddress } from '../trap/listener.ts'

/** Where a server listens: the path of a Unix socket, or `host:port` (`[::1]:port`). @throws InvalidArgumentError */
export function serverAddress(text: string): string {
  const address = parseAddress(text)
  const possible = 'path' in address ? address.path !== '' : address.port >= 1 && address.port <= 65_535
  if (!possible)
    throw new InvalidArgumentError('expected the path of a Unix socket, or HOST:PORT with a port from 1 to 65535')
  return text
}

/** What can be read. @throws InvalidArgumentError */
function readable(path: string): string {
  try {
    accessSync(path, constants.R_OK)
  } catch (error) {
    const denied = (error as NodeJS.ErrnoException).code === 'EACCES'
    throw new InvalidArgumentError(denied ? 'you may not read it' : 'no such file')
  }
  if (statSync(path).isDirectory()) throw new InvalidArgumentError('this is a folder, expected a file')
  return path
}

/** A file to be read: no device and no pipe, which may have no end. @throws InvalidArgumentError */
export function inputFile(path: string): string {
  readable(path)
  if (!statSync(path).isFile()) throw new InvalidArgumentError('not a regular file')
  return path
}

/** A database that may be new. @throws InvalidArgumentError */
export const databaseFile = (path: string): string => (existsSync(path) ? inputFile(path) : outputInFolder(path))

/**
 * A recording: `latest`, the name of a run or the beginning of one, a run's folder, or a file.
 * @returns the path of its file @throws InvalidArgumentError
 */
export function inputRecording(text: string): string {
  // A file of the user's may have any name, `latest` for one: `./latest` is that file.
  if (text !== LATEST && (!/^\d{4}-/.test(text) || existsSync(text))) {
    const inside = join(text, RECORDING)
    // The reader of recordings knows what is none.
    return readable(existsSync(inside) ? inside : text)
  }
  try {
    return runNamed(text).recording
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

/**
 * A file that is written at the end, maybe over another one: whether it can be is tried at the beginning.
 * @throws InvalidArgumentError
 */
export const outputFile = (path: string): string => writable(path, () => tryWhole(path))

/** A file that is written at once: one that is there is written over where it is. @throws InvalidArgumentError */
export const outputStream = (path: string): string =>
  writable(path, () => (existsSync(path) ? accessSync(path, constants.W_OK) : tryWhole(path)))

function writable(path: string, attempt: () => void): string {
  if (path === '' || (path.endsWith('/') && !existsSync(path)))
    throw new InvalidArgumentError('this names a folder, expected a file')
  const folder = dirname(resolve(path))
  if (!existsSync(folder)) throw new InvalidArgumentError('its folder does not exist')
  let file: Stats | undefined
  try {
    file = statSync(path, { throwIfNoEntry: false })
    if (!file?.isDirectory() && !file?.isSocket()) attempt()
  } catch (error) {
    throw new InvalidArgumentError(`it cannot be written: ${reason(error as NodeJS.ErrnoException)}`)
  }
  if (file?.isDirectory()) throw new InvalidArgumentError('this is a folder, expected a file')
  if (file?.isSocket()) throw new InvalidArgumentError('this is a socket, expected a file')
  return path
}

/** `EROFS: read-only file system, open '/x'` without the name of the attempt. */
const reason = ({ message }: Error): string => /^([A-Z0-9]+: .*), \w+ '/.exec(message)?.[1] ?? message

/** A folder that files are put into, and that is made if it is not there. @throws InvalidArgumentError */
export function outputFolder(path: string): string {
  if (path === '') throw new InvalidArgumentError('expected the name of a folder')
  let folder = resolve(path)
  while (!existsSync(folder)) folder = dirname(folder)
  if (!statSync(folder).isDirectory()) throw new InvalidArgumentError(`${folder} is no folder`)
  try {
    tryWhole(join(folder, 'file'))
  } catch (error) {
    throw new InvalidArgumentError(`nothing can be written to ${folder}: ${reason(error as Error)}`)
  }
  return path
}

/** A file that is written at the end, and its folder, which is made if it is not there. @throws InvalidArgumentError */
export function outputInFolder(path: string): string {
  const folder = dirname(resolve(path))
  return existsSync(outputFolder(folder)) ? outputFile(path) : path
}

type PathsByOption = Readonly<Record<string, string | false | undefined>>

/**
 * Two outputs in one file would be one of them, and one in a file that is read would be the end of that.
 * @param outputs by the option that names each @param inputs likewise @throws Error
 */
export function expectDistinct(outputs: PathsByOption, inputs: PathsByOption = {}): void {
  const uses = new Map<string, string>()
  for (const [option, path] of Object.entries(inputs))
    if (path) uses.set(sameFile(path), `${option} is read from that file`)
  for (const [option, path] of Object.entries(outputs)) {
    if (path === undefined || path === false || !isFileOrNew(path)) continue
    const other = uses.get(sameFile(path))
    if (other !== undefined) throw new Error(`${option} ${path}: ${other}`)
    uses.set(sameFile(path), `${option} is written to the same file`)
  }
}

/** The reports of a campaign, and the database that it is kept in. @throws Error */
export const expectReports = ({
  database,
  junit,
  html,
}: {
  readonly database: string
  readonly junit?: string
  readonly html?: string
}): void => expectDistinct({ '--junit': junit, '--html': html }, { '--database': database })

/** Equal for all names of one file. */
function sameFile(path: string): string {
  const there = statSync(path, { throwIfNoEntry: false })
  if (there !== undefined) return `${there.dev} ${there.ino}`
  const folder = dirname(resolve(path))
  return join(existsSync(folder) ? realpathSync(folder) : folder, basename(path))
}

/** Several may lead to one terminal or pipe. */
const isFileOrNew = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isFile() !== false

/** A folder with files. @throws InvalidArgumentError */
export function folder(path: string): string {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new InvalidArgumentError('no such folder')
  return path
}

/** One of the versions of QEMU that set-up knows, a binary, or a source tree. @throws InvalidArgumentError */
export function whichQemu(text: string): string {
  if (isQemuVersion(text)) return text
  if (!existsSync(text)) throw new InvalidArgumentError(`no such file; set-up knows ${QEMU_VERSIONS.join(' and ')}`)
  if (statSync(text).isDirectory()) return qemuSource(text)
  const binary = resolve(inputFile(text))
  try {
    accessSync(binary, constants.X_OK)
  } catch {
    throw new InvalidArgumentError('not executable: expected a qemu-system-aarch64 with the patches, or a source tree')
  }
  return binary
}

/** A source tree of a QEMU that there are patches for. @throws InvalidArgumentError */
export function qemuSource(path: string): string {
  folder(path)
  try {
    treeVersion(path)
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
  return resolve(path)
}

/** A folder for the guest, with `:rw` behind it for one that it may write to. @throws InvalidArgumentError */
export function sharedFolder(text: string): SharedFolder {
  const [, path = '', how] = /^(.*?)(?::(ro|rw))?$/s.exec(text) ?? []
  const writable = how === 'rw'
  folder(path)
  try {
    accessSync(path, constants.R_OK | constants.X_OK | (writable ? constants.W_OK : 0))
  } catch {
    throw new InvalidArgumentError(`you may not ${writable ? 'write to' : 'read'} it`)
  }
  return { path: resolve(path), writable }
}

/** Several files. */
export const inputFiles = (path: string, before: readonly string[] = []): string[] => [...before, inputFile(path)]

/** A file of fault rules, or a name of the catalogue. @throws InvalidArgumentError */
export function faultName(text: string): string {
  if (isFile(text)) return inputFile(text)
  try {
    entryNamed(text)
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
  return text
}

export const faultNames = (text: string, before: readonly string[] = []): string[] => [...before, faultName(text)]

/** Runs by name. */
export function runsByName(text: string, before: readonly Run[] = []): Run[] {
  try {
    return [...before, runNamed(text)]
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

/** The recording that a command is about. */
export const ofRecording = (command: Command): Command =>
  command.argument('<recording>', `a file, the name of a run, or ${LATEST}`, inputRecording)
