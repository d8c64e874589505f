// SPDX-License-Identifier: Apache-2.0
/** Files that requests may name: those in one folder, by their names alone. */
import { lstatSync, readdirSync, realpathSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Problem } from './problem.ts'
import { FILE_NAME } from './schemas/fields.ts'

const NAME = new RegExp(FILE_NAME)

/** A plain file, not a link: what a link leads to was not offered. */
const plain = (path: string): boolean => lstatSync(path, { throwIfNoEntry: false })?.isFile() === true

/** Names that `namedFile` takes. */
export function fileNames(folder: string | undefined): string[] {
  if (folder === undefined) return []
  return readdirSync(folder)
    .filter(name => NAME.test(name) && plain(join(folder, name)))
    .sort()
}

/** The path of a file in a folder. @param what for the message @throws Problem when it is not one of `fileNames` */
export function namedFile(folder: string | undefined, name: string, what: string): string {
  if (folder === undefined) throw new Problem(422, `${what} ${name}: the server was started without a folder of images`)
  const path = join(folder, name)
  if (!NAME.test(name) || !plain(path) || dirname(realpathSync(path)) !== realpathSync(folder))
    throw new Problem(422, `${what} ${name}: no such file in the folder of images`)
  return path
}
